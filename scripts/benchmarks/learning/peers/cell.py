"""What a peer's script reads and writes; without the packages of the project."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cell:
    """A training set, a test set and pretrained weights.

    Attributes:
        train: Folder with a folder of images per class, or a table with the columns `text` and `label`.
        test: The same for testing.
        model: Folder of the pretrained model.
        seed: Random seed.
        image_size: Size of images in pixels.
        scratch: Empty folder.
        output: Path of the result.
    """

    train: str
    test: str
    model: str
    seed: int
    image_size: int
    scratch: str
    output: str

    @property
    def images(self) -> bool:
        """Whether images are classified."""
        return Path(self.train).is_dir()


def read_cell() -> Cell:
    """The cell of the file that the command line names."""
    return Cell(**json.loads(Path(sys.argv[1]).read_text("utf-8")))


def write_predictions(cell: Cell, labels: Sequence[str]) -> None:
    """Write the predicted labels of the test records, in their order."""
    Path(cell.output).write_text(json.dumps(list(labels)), "utf-8")


def read_images(folder: str) -> tuple[list[str], list[str]]:
    """Paths of images in the order of their names, and their labels."""
    paths = sorted(Path(folder).glob("*/*.png"), key=lambda path: path.name)
    return [str(path) for path in paths], [path.parent.name for path in paths]


def read_texts(table: str) -> tuple[list[str], list[str]]:
    """Texts and their labels."""
    with Path(table).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]
