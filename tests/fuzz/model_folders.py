"""Transformers model folders with one fault each, and the reference answers of transformers."""

from __future__ import annotations

import functools
import inspect
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.models.transformers.folder import quiet
from tests.fuzz.oracle import Reference
from tests.fuzz.running import production_warnings, shared_folder
from tests.support.tiny_transformers import TEXT_TYPES, write_folder

LABELS = ("pos", "neg")
"""Class names in the order of the outputs; not sorted, so that a wrong order is detected."""

TEXTS = (
    ("neg", "the cat sat on the mat", "a dog"),
    ("pos", "dog ran away", "up in the mat"),
    ("neg", "a", "the the the dog ran"),
    ("pos", "up the mat in away cat dog on a mat", "cat"),
)
SHAPES = ((32, 32), (48, 40), (40, 56), (20, 20))
WEIGHTS = "model.safetensors"


@dataclass
class Folder:
    """A model folder to be changed by mutations.

    Attributes:
        path: the folder.
        model_type: its family.
        draw: hypothesis' draw.
        word: added to one of the records.
        pairs: whether the records have two texts.
        shapes: sizes of the images, in pixels.
        clean: a folder without common additions unknown to the library; `None` for the folder itself.
        forbidden: why no result is right, even one equal to the library's; empty if one is.
    """

    path: Path
    model_type: str
    draw: Callable[[st.SearchStrategy[Any]], Any]
    word: str = ""
    pairs: bool = False
    shapes: Sequence[tuple[int, int]] = ((32, 32),) * 4
    clean: Path | None = None
    forbidden: str = ""

    @property
    def is_text(self) -> bool:
        """Whether its model classifies texts."""
        return self.model_type in TEXT_TYPES

    def json(self, name: str) -> dict[str, Any]:
        """The content of one of its JSON files."""
        loaded: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return loaded

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace one of its JSON files."""
        (self.path / name).write_text(json.dumps(content, indent=2), encoding="utf-8")

    def change(self, name: str, /, **fields: object) -> None:
        """Change fields of one of its JSON files."""
        self.write(name, {**self.json(name), **fields})

    def remove(self, name: str, *fields: str) -> None:
        """Remove fields from one of its JSON files."""
        self.write(name, {key: value for key, value in self.json(name).items() if key not in fields})

    def tensors(self) -> dict[str, Tensor]:
        """Its weights."""
        return load_file(self.path / WEIGHTS)

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace its weights."""
        save_file({name: value.contiguous() for name, value in tensors.items()}, self.path / WEIGHTS, {"format": "pt"})

    def choose(self, values: Sequence[Any]) -> Any:  # noqa: ANN401 - any type
        """Draw one of some values."""
        return self.draw(st.sampled_from(list(values)))


@functools.cache
def _base(model_type: str) -> Path:
    folder = shared_folder() / model_type
    with production_warnings():
        write_folder(folder, model_type, labels=LABELS)
    return folder


def new_case(root: Path, model_type: str, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Folder:
    """An unchanged folder of a family, removed together with `place`."""
    return Folder(Path(shutil.copytree(_base(model_type), root / "model")), model_type, draw)


# --- Records ---------------------------------------------------------------------------------------------------------


def texts_of(folder: Folder) -> list[tuple[str, ...]]:
    """Labels and texts of the records."""
    word = f" {folder.word}" if folder.word else ""
    rows = [(label, first + (word if at == 1 else ""), second) for at, (label, first, second) in enumerate(TEXTS)]
    return [row if folder.pairs else row[:2] for row in rows]


def images_of(folder: Folder) -> list[tuple[str, Image.Image]]:
    """Labels and images of the records; every image varies from one side to the other."""
    predictions = []
    for at, (width, height) in enumerate(folder.shapes):
        noise = np.random.default_rng(at).integers(0, 80, size=(height, width, 3))
        ramp = np.linspace(0, 170, width)[None, :, None] * np.array([1.0, 0.5, 0.2])
        predictions.append((LABELS[at % 2], Image.fromarray((noise + ramp).astype(np.uint8))))
    return sorted(predictions, key=lambda pair: pair[0])


def write_channel(root: Path, folder: Folder) -> Path:
    """Write the records as the channel `test`."""
    root.mkdir()
    if folder.is_text:
        names = ("label", "sentence1", "sentence2") if folder.pairs else ("label", "text")
        (root / "test.csv").write_text("".join(",".join(row) + "\n" for row in (names, *texts_of(folder))))
        return root
    for at, (label, image) in enumerate(images_of(folder)):
        (root / label).mkdir(exist_ok=True)
        image.save(root / label / f"{at}.png")
    return root


# --- The source library ----------------------------------------------------------------------------------------------


class NoReferenceError(Exception):
    """The source library refuses, or initializes values at random; `names` are those that it reports."""

    def __init__(self, reason: str, names: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.names = tuple(names)


def reference(folder: Folder) -> Reference:
    """The answers of transformers with the folder's own tokenizer or image processor."""
    if folder.forbidden:
        return Reference((), folder.forbidden)
    path = folder.clean or folder.path
    try:
        with production_warnings(), quiet():
            order = label_order(json.loads((path / "config.json").read_text(encoding="utf-8")))
            predictions = library_answers(folder, path)
    except NoReferenceError as error:
        return Reference((), str(error), error.names)
    except Exception as error:  # noqa: BLE001 - any error of the library means no reference
        return Reference((), f"{type(error).__name__}: {error}"[:300])
    if len(predictions[0]) != len(order):
        return Reference((), f"{len(predictions[0])} outputs for {len(order)} names")
    named = [dict(zip(order, row, strict=True)) for row in predictions]
    if any(value != value for row in predictions for value in row):  # noqa: PLR0124 - NaN
        return Reference((), "the answers are NaN", ("nan", "finite"))
    return Reference((named,))


def label_order(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names in the order of the outputs, from config.json; without names, those of the data, sorted."""
    arguments, inverse = config.get("id2label") or {}, config.get("label2id") or {}
    by_id = [str(arguments[key]) for key in sorted(arguments, key=int)]
    by_name = [name for name, _ in sorted(inverse.items(), key=lambda item: int(item[1]))]
    if sorted(map(int, arguments)) != list(range(len(arguments))):
        raise NoReferenceError("numbers of id2label have gaps", ("id2label",))
    if sorted(map(int, inverse.values())) != list(range(len(inverse))):
        raise NoReferenceError("numbers of label2id have gaps or repeat", ("label2id",))
    orders = [order for order in (by_id, by_name) if not all(name.startswith("LABEL_") for name in order)]
    if len(orders) == 2 and by_id != by_name:
        raise NoReferenceError("id2label and label2id contradict each other", ("id2label", "label2id"))
    order = orders[0] if orders else sorted(LABELS)
    if len(set(order)) < len(order):
        raise NoReferenceError("a class name is there twice", ("id2label", *order))
    return tuple(order)


def library_answers(folder: Folder, path: Path) -> list[list[float]]:
    """Probabilities `[records][classes]`, computed one record at a time, so that there is no padding."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    family: Any = AutoModelForSequenceClassification if folder.is_text else AutoModelForImageClassification
    model, report = family.from_pretrained(
        path, dtype=torch.float32, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    drawn = sorted(report["missing_keys"]) + [
        key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]
    ]
    if drawn:
        raise NoReferenceError(f"newly initialized: {drawn}", drawn)
    model.eval()
    several = model.config.problem_type == "multi_label_classification"
    predictions = []
    with torch.inference_mode():
        for inputs in _inputs(folder, path):
            known = set(inspect.signature(model.forward).parameters)
            logits = model(**{name: value for name, value in inputs.items() if name in known})[0][0]
            predictions.append((logits.sigmoid() if several else logits.softmax(-1)).tolist())
    return predictions


def _inputs(folder: Folder, path: Path) -> list[Mapping[str, Tensor]]:
    from transformers import AutoImageProcessor, AutoTokenizer

    if folder.is_text:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        limit = min(512, int(float(tokenizer.model_max_length)))  # Some folders contain 512.0 or a string.
        return [
            tokenizer(*([text] for text in texts), truncation=True, max_length=limit, return_tensors="pt")
            for _, *texts in texts_of(folder)
        ]
    opener: Any = AutoImageProcessor
    processor = opener.from_pretrained(path, local_files_only=True)
    return [processor(image, return_tensors="pt") for _, image in images_of(folder)]


def existing_head(folder: Folder, reinitialize: str) -> Reference:
    """Whether a training job may keep the head, which transformers must have loaded completely."""
    whole = reference(folder)
    if whole.values:
        return Reference((True,))
    return Reference((False,) if reinitialize == "auto" else (), whole.reason, whole.names)
