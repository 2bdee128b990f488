"""Replaces single values in checkpoint JSON files, with hashes recomputed so that they still match."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from finetune.checkpoint.layout import MANIFEST

_TAGS = st.sampled_from(["tensor", "tuple", "mapping", "float", "unheard of", 3, None, ["tensor"]])
_KEYS = st.sampled_from(["!", "name", "items", "bits", "stride", "epoch", "step", ""]) | st.text(max_size=3)
_PLAIN = (
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**30, -1, 2**63]) | st.floats() | st.text(max_size=5)
)
VALUES = st.recursive(
    _PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_KEYS, inner, max_size=3)
        | st.builds(lambda tag, entries: {"!": tag, **entries}, _TAGS, st.dictionaries(_KEYS, inner, max_size=3))
    ),
    max_leaves=6,
)


@dataclass(frozen=True)
class Mutation:
    """A change at one place of a document.

    Attributes:
        path: one number per level that selects an entry; the change is made at its end.
        kind: of the change.
        value: inserted value.
    """

    path: tuple[int, ...]
    kind: str
    value: object

    def apply_to(self, document: object) -> object:
        """The document with the change."""
        if not self.path or not isinstance(document, list | dict) or not document:
            return self.value
        if isinstance(document, list):
            return list(self._changed(dict(enumerate(document))).values())
        return self._changed(document)

    def _changed(self, document: dict[Any, object]) -> dict[Any, object]:
        key = sorted(document)[self.path[0] % len(document)]
        if len(self.path) > 1:
            document[key] = Mutation(self.path[1:], self.kind, self.value).apply_to(document[key])
        elif self.kind == "take away":
            del document[key]
        elif self.kind == "add":
            document["added" if isinstance(key, str) else len(document)] = self.value
        else:
            document[key] = self.value
        return document


MUTATIONS = st.builds(
    Mutation,
    st.lists(st.integers(0, 40), max_size=5).map(tuple),
    st.sampled_from(["replace", "take away", "add"]),
    VALUES,
)


def apply_mutation(checkpoint: Path, file: str, mutation: Mutation) -> None:
    """Change a JSON file of a checkpoint, and update the manifest's hashes to match."""
    path = checkpoint / file
    manifest = json.loads((checkpoint / MANIFEST).read_text("utf-8"))
    body = manifest["body"]
    if file == MANIFEST:
        body = mutation.apply_to(body)
    else:
        content = json.dumps(mutation.apply_to(json.loads(path.read_text("utf-8")))).encode()
        path.write_bytes(content)
        body["files"][file] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    document = {"body": body, "sha256": hashlib.sha256(canonical).hexdigest()}
    (checkpoint / MANIFEST).write_text(json.dumps(document), "utf-8")
