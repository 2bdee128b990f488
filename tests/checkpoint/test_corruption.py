"""Restores from damaged checkpoint folders: the result is always the newest intact checkpoint, bit for bit.

Hypothesis applies every kind of damage to every kind of file, several at a time, at random positions.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from finetune.checkpoint import CheckpointStore, take_snapshot
from tests.checkpoint.states import checkpoint_info, is_state_at, make_parts

STEPS = (1, 2, 3)
FILES = (
    "manifest.json",
    "model.json",
    "model.safetensors",
    "optimizer.json",
    "optimizer.safetensors",
    "progress.json",
)
KINDS = ("truncate", "flip", "delete", "empty", "swap", "grow", "folder", "temporary name", "marker only")
LATER_VERSION = b'{"body": {"format": "finetune-checkpoint", "version": 2}, "sha256": ""}'

Written = dict[str, dict[str, bytes]]


@dataclass(frozen=True)
class Damage:
    """Damage to one file; `place` is the offset in it, or selects the other checkpoint to copy from."""

    kind: str
    step: int
    file: str
    offset: int


DAMAGES = st.builds(
    Damage,
    st.sampled_from(KINDS),
    st.sampled_from(STEPS) | st.just(STEPS[-1]),
    st.sampled_from(FILES),
    st.integers(0, 2**20),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Written:
    store = CheckpointStore(tmp_path_factory.mktemp("written"), keep=9)
    for step in STEPS:
        store.write(take_snapshot(make_parts(step)), checkpoint_info(step))
    return {
        folder.name: {file.name: file.read_bytes() for file in folder.iterdir()}
        for folder in sorted(store.folder.iterdir())
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "checkpoints"


def copy_template(template: Written, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, files in template.items():
        (folder / name).mkdir(parents=True)
        for file, content in files.items():
            (folder / name / file).write_bytes(content)


def apply_damage(damage: Damage, template: Written, folder: Path) -> None:
    name = sorted(template)[STEPS.index(damage.step)]
    path = folder / name / damage.file
    if not path.is_file():
        return
    content = path.read_bytes()
    other_names = [other_name for other_name in sorted(template) if other_name != name]
    match damage.kind:
        case "truncate":
            path.write_bytes(content[: damage.offset % max(len(content), 1)])
        case "flip" if content:
            position = damage.offset % (len(content) * 8)
            flipped = bytearray(content)
            flipped[position // 8] ^= 1 << position % 8
            path.write_bytes(flipped)
        case "delete":
            path.unlink()
        case "empty" | "marker only":
            path.write_bytes(b"")
            if damage.kind == "marker only":
                path.rename(path.with_name(f"{path.name}.sagemaker-uploaded"))
        case "swap":
            path.write_bytes(template[other_names[damage.offset % len(other_names)]][damage.file])
        case "grow":
            path.write_bytes(content + b"\0" * (1 + damage.offset % 9))
        case "folder":
            path.unlink()
            path.mkdir()
        case "temporary name":
            path.rename(path.with_name(f"{path.name}.sagemaker-ignore"))


def newest_intact(template: Written, folder: Path) -> int:
    """The step of the newest checkpoint with all files intact, or -1."""
    for name, step in sorted(zip(sorted(template), STEPS, strict=True), reverse=True):
        paths = {file: folder / name / file for file in template[name]}
        if all(path.is_file() and path.read_bytes() == template[name][file] for file, path in paths.items()):
            return step
    return -1


def assert_newest_intact_restored(template: Written, folder: Path) -> int:
    expected = newest_intact(template, folder)
    loaded = CheckpointStore(folder).restore()
    if loaded is None:
        assert expected == -1
        return -1
    step = loaded.manifest.info.step
    assert step in STEPS
    assert step >= expected  # later only if the damage left a file's content unchanged
    assert is_state_at(loaded.parts, step)
    return step


@settings(max_examples=400)
@given(st.lists(DAMAGES, min_size=1, max_size=6))
def test_random_damage(template: Written, folder: Path, damages: list[Damage]) -> None:
    copy_template(template, folder)
    for damage in damages:
        apply_damage(damage, template, folder)
    event(f"restored {assert_newest_intact_restored(template, folder)}")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_newest_checkpoint_falls_back_to_previous(
    template: Written, folder: Path, kind: str, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    copy_template(template, folder)
    apply_damage(Damage(kind, 3, file, 1234), template, folder)
    assert assert_newest_intact_restored(template, folder) == 2
    (line,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert max(template) in line


@given(st.sets(st.sampled_from(FILES)), st.sets(st.sampled_from(FILES)))
def test_partially_synced_checkpoint_is_skipped(
    template: Written, folder: Path, arrived: set[str], left_over: set[str]
) -> None:
    copy_template(template, folder)
    newest, older = max(template), min(template)
    for file in set(FILES) - arrived:
        (folder / newest / file).unlink()
        if file in left_over:
            (folder / newest / file).write_bytes(template[older][file])
    assert assert_newest_intact_restored(template, folder) == (3 if arrived == set(FILES) else 2)


@given(st.binary(max_size=200) | st.just(LATER_VERSION), st.sampled_from(FILES), st.sets(st.sampled_from(FILES)))
def test_foreign_folder_with_checkpoint_name_is_skipped(
    template: Written, folder: Path, content: bytes, file: str, copied: set[str]
) -> None:
    copy_template(template, folder)
    foreign = folder / "step-000000099-000099"
    foreign.mkdir()
    for name in copied:
        (foreign / name).write_bytes(template[max(template)][name])
    (foreign / file).write_bytes(content)
    assert assert_newest_intact_restored(template, folder) == 3


def test_renamed_checkpoint_is_skipped(template: Written, folder: Path) -> None:
    copy_template(template, folder)
    newest = folder / max(template)
    newest.rename(newest.with_name("step-000000007-000007"))
    assert assert_newest_intact_restored(template, folder) == 2


def test_symbolic_link_is_not_followed(template: Written, folder: Path, tmp_path: Path) -> None:
    copy_template(template, folder)
    newest = folder / max(template)
    newest.rename(tmp_path / "elsewhere")
    newest.symlink_to(tmp_path / "elsewhere")
    loaded = CheckpointStore(folder).restore()
    assert loaded is not None
    assert loaded.manifest.info.step == 2
