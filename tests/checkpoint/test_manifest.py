"""Manifests describe their checkpoint exactly; untrustworthy ones are rejected with a reason."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.checkpoint import CheckpointInfo, CheckpointName, Manifest, Specification
from finetune.checkpoint.manifest import InvalidCheckpointError, parse_manifest
from finetune.checkpoint.tensor_file import FileEntry

NAME = CheckpointName(12, 3)
FILES = {"model.safetensors": FileEntry(10, "0" * 64), "model.json": FileEntry(2, "f" * 64)}
MANIFEST = Manifest(
    NAME,
    CheckpointInfo(12, "epoch", Specification("abc", {"rate": 0.1, "size": (3, 4), "none": None}), best=True),
    1.5,
    FILES,
)


def encode_with(**changes: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """A manifest with modified entries and a matching hash of its own."""
    body = json.loads(MANIFEST.encode())["body"] | changes
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps({"body": body, "sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


def test_manifest_round_trips() -> None:
    assert parse_manifest(MANIFEST.encode(), NAME) == MANIFEST


@given(st.integers(0, len(MANIFEST.encode()) * 8 - 1))
def test_flipped_bit_is_rejected_or_harmless(position: int) -> None:
    content = bytearray(MANIFEST.encode())
    content[position // 8] ^= 1 << position % 8
    with contextlib.suppress(InvalidCheckpointError):
        assert parse_manifest(bytes(content), NAME) == MANIFEST


@given(st.integers(0, len(MANIFEST.encode()) - 1))
def test_truncated_manifest_is_rejected(length: int) -> None:
    with pytest.raises(InvalidCheckpointError):
        parse_manifest(MANIFEST.encode()[:length], NAME)


@given(st.binary(max_size=60) | st.recursive(st.none() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_other_content_is_rejected(content: bytes) -> None:
    with pytest.raises(InvalidCheckpointError):
        parse_manifest(content, NAME)


@pytest.mark.parametrize(
    ("content", "reason", "foreign"),
    [
        (b"", "empty", False),
        (b"[" * 100_000, "not JSON", False),
        (b'{"model": 1}', "from another program", True),
        (encode_with(format="other"), "from another program", True),
        (encode_with(version=2), "version 2", True),
        (encode_with(name="step-000000012-000004"), "belongs to step-000000012-000004", False),
        (encode_with(files={"../../etc.json": {"size": 1, "sha256": "0" * 64}}), "file '../../etc.json'", False),
        (encode_with(files={"manifest.json": {"size": 1, "sha256": "0" * 64}}), "file 'manifest.json'", False),
        (encode_with(files={"model.json": {"size": 1, "sha256": "x"}}), "file 'model.json'", False),
        (encode_with(files=None), "missing or invalid entry", False),
        (encode_with(created="yesterday"), "missing or invalid entry", False),
        (
            encode_with(specification={"digest": "d", "fields": {"!": "tensor", "name": "x"}}),
            "missing or invalid entry",
            False,
        ),
    ],
)
def test_error_names_the_reason(content: bytes, reason: str, foreign: bool) -> None:
    with pytest.raises(InvalidCheckpointError, match=reason) as error_info:
        parse_manifest(content, NAME)
    assert error_info.value.foreign is foreign


def test_differing_fields_are_listed() -> None:
    saved = Specification.of({"same": (1, 2), "nan": float("nan"), "rate": 0.1, "gone": 1, "type": 1})
    requested = Specification.of({"same": (1, 2), "nan": float("nan"), "rate": 0.2, "new": 1, "type": True})
    assert saved.differing_fields(requested) == ("gone", "new", "rate", "type")
    assert saved.digest != requested.digest


def test_digest_is_independent_of_field_order() -> None:
    assert Specification.of({"a": 1, "b": 2}).digest == Specification.of({"b": 2, "a": 1}).digest
