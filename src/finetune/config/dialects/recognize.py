"""Recognizes the dialect of a request by the names of its hyperparameters."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from finetune.config.dialects.dialect import Dialect
from finetune.config.dialects.table import DIALECTS, TENSORFLOW_IMAGE, TENSORFLOW_TEXT


class Recognized(NamedTuple):
    """The recognized dialect, and the names that identify it.

    Attributes:
        dialect: the dialect; `None` without names of another tool, or with names of several.
        evidence: the names, in alphabetical order.
        note: reason why no dialect was chosen although there are such names.
    """

    dialect: Dialect | None
    evidence: tuple[str, ...] = ()
    note: str = ""


def recognize(names: Collection[str], task: str) -> Recognized:
    """Return the dialect with most of these names.

    Args:
        names: names in the request, with underscores.
        task: value of `task`, which decides between related tools if the names do not; empty if it is not set.
    """
    found = {
        name: sorted((dialect.identified_by | dialect.shared_names) & set(names)) for name, dialect in DIALECTS.items()
    }
    most = max(map(len, found.values()))
    if not most:
        return Recognized(None)
    best = [name for name, evidence in found.items() if len(evidence) == most]
    if set(best) == {TENSORFLOW_IMAGE.name, TENSORFLOW_TEXT.name}:
        best = [(TENSORFLOW_TEXT if task == "text-classification" else TENSORFLOW_IMAGE).name]
    if len(best) == 1:
        return Recognized(DIALECTS[best[0]], tuple(found[best[0]]))
    tools = " and ".join(f"{DIALECTS[name].tool} ({', '.join(found[name])})" for name in best)
    return Recognized(
        None,
        note=f"The request has names of {tools}, so the defaults of neither apply: set dialect to one of"
        f" {', '.join(best)}, or to none.",
    )
