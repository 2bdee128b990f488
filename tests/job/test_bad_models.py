"""Errors for model channels that are unusable or untrusted."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet34

from tests.support.whole_jobs import run_training


class Malice:
    """Creates a folder when unpickled."""

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.mkdir, (self.workdir,))


def saved(state: object) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def write_archive(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder


def refusal(workdir: Path, images: Path, model: Path) -> str:
    job = run_training(workdir, {"train": images, "model": model}, {"epochs": "1"})
    assert job.exit_code == 1, job.log
    assert len(job.failure) <= 1024
    assert "Traceback" not in job.failure
    return job.failure


def test_invalid_archive_is_refused(tmp_path: Path, holdout: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.tar.gz").write_bytes(b"hello, hello")
    cause = refusal(tmp_path / "job", holdout, tmp_path / "model")
    assert re.fullmatch(r"model\.tar\.gz is not a valid archive, or is truncated: .* Provide a tar file, as .*", cause)


def test_truncated_archive_is_refused(tmp_path: Path, holdout: Path) -> None:
    folder = write_archive(tmp_path / "model", {"resnet34.pth": torch.rand(4096).numpy().tobytes()})
    archive = folder / "model.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-2000])
    assert refusal(tmp_path / "job", holdout, folder).startswith(
        "model.tar.gz is not a valid archive, or is truncated: "
    )


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside-of-the-archive"])
def test_archive_with_outside_paths_is_refused(name: str, tmp_path: Path, holdout: Path) -> None:
    folder = write_archive(tmp_path / "model", {name: b"x"})
    cause = refusal(tmp_path / "job", holdout, folder)
    assert cause.startswith(f"model.tar.gz contains a member outside its folder: {name!r}. Pack the model again")
    assert not list(tmp_path.rglob("outside*"))
    assert not Path(name).is_file()


def test_weights_of_another_model_are_refused(tmp_path: Path, holdout: Path) -> None:
    with torch.device("meta"):
        state = resnet34().state_dict()
    # Zeros are compressed faster than weights.
    weights = saved({name: torch.zeros(value.shape, dtype=value.dtype) for name, value in state.items()})
    folder = write_archive(tmp_path / "model", {"resnet18.pth": weights})
    cause = refusal(tmp_path / "job", holdout, folder)
    assert "belong to another model than model_name='resnet18'" in cause
    assert cause.endswith("They match 'resnet34': set model_name accordingly.")


def test_pickled_objects_are_not_loaded(tmp_path: Path, holdout: Path) -> None:
    made = tmp_path / "made-by-a-pickle"
    for number, content in enumerate(
        (pickle.dumps({"fc.weight": Malice(made)}, protocol=2), saved({"fc.weight": Malice(made)}))
    ):
        folder = write_archive(tmp_path / f"model-{number}", {"resnet18.pth": content})
        cause = refusal(tmp_path / f"job-{number}", holdout, folder)
        assert cause.startswith("resnet18.pth cannot be read as plain tensors: ")
        assert "save the state dict as safetensors" in cause
        assert not made.exists()
    pickle.loads(pickle.dumps(Malice(made)))
    assert made.exists()


def test_folder_with_custom_code_is_refused(tmp_path: Path, holdout: Path) -> None:
    code = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).mkdir()\nclass Config: pass\n"
    config = b'{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}, "architectures": ["Mine"]}'
    folder = write_archive(tmp_path / "model", {"config.json": config, "mine.py": code.encode()})
    assert "requires custom code, which is never run" in refusal(tmp_path / "job", holdout, folder)
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "rows.csv").write_text("label,text\na,one\na,two\nb,three\nb,four\n")
    job = run_training(tmp_path / "job", {"train": tmp_path / "texts"})
    assert job.exit_code == 1
    assert job.failure.startswith("There are no local weights for 'distilbert-base-uncased', and the download failed")
    assert all(remedy in job.failure for remedy in ("(1) provide a `model`", "(2) use an image", "(3) give the job"))
