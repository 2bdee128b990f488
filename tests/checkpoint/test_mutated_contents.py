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
from tests.checkpoint.mutations import MUTATIONS, Mutation, apply_mutation
from tests.checkpoint.states import checkpoint_info, is_state_at, make_parts

FILES = ("manifest.json", "model.json", "optimizer.json", "progress.json")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = CheckpointStore(tmp_path_factory.mktemp("template"), keep=9)
    for step in (1, 2):
        store.write(take_snapshot(make_parts(step)), checkpoint_info(step))
    return store.folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd") / "checkpoints"


@given(st.sampled_from(FILES), MUTATIONS)
def test_random_mutation(template: Path, folder: Path, file: str, mutation: Mutation) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    apply_mutation(max(folder.iterdir()), file, mutation)
    loaded = CheckpointStore(folder).restore()
    assert loaded is not None
    event(f"step {loaded.manifest.info.step}")
    if loaded.manifest.info.step == 1:
        assert is_state_at(loaded.parts, 1)
    else:
        specification = loaded.manifest.info.specification
        assert specification.differing_fields(specification) == ()


@pytest.mark.parametrize("entry", ["format", "version", "name", "kind", "best", "created", "specification", "files"])
def test_manifest_with_missing_entry(template: Path, folder: Path, entry: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    path = max(folder.iterdir()) / "manifest.json"
    body = json.loads(path.read_text("utf-8"))["body"]
    del body[entry]
    plain = json.dumps(body, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({"body": body, "sha256": hashlib.sha256(plain.encode()).hexdigest()}), "utf-8")
    loaded = CheckpointStore(folder).restore()
    assert loaded is not None
    assert loaded.manifest.info.step == 1


def test_manifest_with_non_finite_numbers(template: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    path = max(folder.iterdir()) / "manifest.json"
    path.write_text(path.read_text("utf-8").replace('"best": false', '"best": NaN'), "utf-8")
    loaded = CheckpointStore(folder).restore()
    assert loaded is not None
    assert loaded.manifest.info.step == 1


@pytest.mark.parametrize("stride", [[0, 0], [1, 1], [10**12, 1], [3, -1], [3], "ab", [2, 1, 1], [1.0, 2.0], [3, None]])
def test_stride_with_gaps_or_overlaps_is_rejected(stride: object) -> None:
    values = json.loads(json.dumps({"!": "tensor", "name": "weight", "stride": stride}))
    with pytest.raises(ValueError, match=r"stride|cannot be read|argument"):
        unflatten_state(FlatState({"weight": torch.zeros(2, 3)}, values))
