"""Checkpoints with odd contents under valid hashes are read as they are or skipped, without a crash."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from finetune.checkpoint import CheckpointStore, FlatState, take_snapshot, unflatten_state
from tests.checkpoint.odd_values import ODDITIES, Oddity, write_oddly
from tests.checkpoint.states import about, is_state_of, parts_at

FILES = ("manifest.json", "model.json", "optimizer.json", "progress.json")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = CheckpointStore(tmp_path_factory.mktemp("written"), keep=9)
    for step in (1, 2):
        store.write(take_snapshot(parts_at(step)), about(step))
    return store.folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd") / "checkpoints"


@given(st.sampled_from(FILES), ODDITIES)
def test_random_mutation(written: Path, scratch: Path, file: str, oddity: Oddity) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(written, scratch)
    write_oddly(max(scratch.iterdir()), file, oddity)
    loaded = CheckpointStore(scratch).restore()
    assert loaded is not None
    event(f"step {loaded.manifest.info.step}")
    if loaded.manifest.info.step == 1:
        assert is_state_of(loaded.parts, 1)
    else:
        theirs = loaded.manifest.info.specification
        assert theirs.differing_fields(theirs) == ()


@pytest.mark.parametrize("entry", ["format", "version", "name", "kind", "best", "created", "specification", "files"])
def test_manifest_with_missing_entry(written: Path, scratch: Path, entry: str) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(written, scratch)
    path = max(scratch.iterdir()) / "manifest.json"
    body = json.loads(path.read_text("utf-8"))["body"]
    del body[entry]
    plain = json.dumps(body, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({"body": body, "sha256": hashlib.sha256(plain.encode()).hexdigest()}), "utf-8")
    loaded = CheckpointStore(scratch).restore()
    assert loaded is not None
    assert loaded.manifest.info.step == 1


def test_manifest_with_non_finite_numbers(written: Path, scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(written, scratch)
    path = max(scratch.iterdir()) / "manifest.json"
    path.write_text(path.read_text("utf-8").replace('"best": false', '"best": NaN'), "utf-8")
    loaded = CheckpointStore(scratch).restore()
    assert loaded is not None
    assert loaded.manifest.info.step == 1


@pytest.mark.parametrize("stride", [[0, 0], [1, 1], [10**12, 1], [3, -1], [3], "ab", [2, 1, 1], [1.0, 2.0], [3, None]])
def test_stride_with_gaps_or_overlaps_is_rejected(stride: object) -> None:
    values = json.loads(json.dumps({"!": "tensor", "name": "weight", "stride": stride}))
    with pytest.raises(ValueError, match=r"stride|cannot be read|argument"):
        unflatten_state(FlatState({"weight": torch.zeros(2, 3)}, values))
