"""Exit code and first line of the failure file for each kind of failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import JobFolder, Resources, TrainingRequest, lay_out
from tests.image.containers import AS_NOBODY, ML, Container, Harbour, Manner
from tests.support.whole_jobs import build_request

SCRATCH = {"strategy": "from_scratch", "model_name": "resnet18", "image_size": "32", "epochs": "1", "batch_size": "8"}
MODULE = "SAGEMAKER_TRAINING_MODULE"


def with_options(*options: str, environment: tuple[str, ...] = ()) -> Manner:
    return Manner(AS_NOBODY.user, (*AS_NOBODY.options, *options), (*AS_NOBODY.environment, *environment))


def ended(container: Container, code: int, beginning: str) -> None:
    assert container.wait() == code, container.log()
    assert container.failure.startswith(beginning), container.failure
    assert not (container.folder.output / "success").exists()


def test_a_wrong_hyperparameter_is_the_users_fault(pictures: Path, harbour: Harbour, tmp_path: Path) -> None:
    container = harbour.start(tmp_path / "ml", build_request({"train": pictures}, {"epoch": "3"}))
    ended(container, 1, "Unknown hyperparameter 'epoch'")


def test_wrong_data_are_the_users_fault(pictures: Path, harbour: Harbour, tmp_path: Path) -> None:
    (tmp_path / "one-class" / "only").mkdir(parents=True)
    (tmp_path / "one-class" / "only" / "a.png").write_bytes((pictures / "red" / "000.png").read_bytes())
    container = harbour.start(tmp_path / "ml", build_request({"train": tmp_path / "one-class"}, SCRATCH))
    ended(container, 1, "")
    assert "train" in container.failure.splitlines()[0]


def test_a_missing_gpu_is_the_platforms_fault(pictures: Path, harbour: Harbour, tmp_path: Path) -> None:
    request = replace(build_request({"train": pictures}, SCRATCH), resources=Resources(instance_type="ml.g5.xlarge"))
    ended(harbour.start(tmp_path / "ml", request), 2, "A GPU is expected (ml.g5.xlarge)")


def test_a_full_disk_is_the_platforms_fault(pictures: Path, harbour: Harbour, tmp_path: Path) -> None:
    tiny = ("--tmpfs", f"{ML}/model:size=1m,uid={AS_NOBODY.user}")
    container = harbour.start(tmp_path / "ml", build_request({"train": pictures}, SCRATCH), with_options(*tiny))
    ended(container, 2, "")
    assert "space" in container.failure.splitlines()[0]


def test_a_folder_that_cannot_be_written_is_the_platforms_fault(
    pictures: Path, harbour: Harbour, tmp_path: Path
) -> None:
    folder = lay_out(tmp_path / "ml", build_request({"train": pictures}, SCRATCH), Path(ML))
    sealed = ("--tmpfs", f"{ML}/model:ro")
    container = harbour.start_in(folder, with_options(*sealed), [str(pictures)])
    ended(container, 2, "/opt/ml/model cannot be written by user 12345")


def test_output_that_cannot_be_written_fails_without_a_file(pictures: Path, harbour: Harbour, tmp_path: Path) -> None:
    """sagemaker-training would exit with 0."""
    folder = lay_out(tmp_path / "ml", build_request({"train": pictures}, SCRATCH), Path(ML))
    container = harbour.start_in(folder, with_options("--tmpfs", f"{ML}/output:ro"), [str(pictures)])
    assert container.wait() == 2, container.log()
    assert "cannot be written" in container.log() or "Read-only" in container.log()


def test_memory_that_runs_out_kills_the_job_and_not_its_account(
    pictures: Path, harbour: Harbour, tmp_path: Path
) -> None:
    little = with_options("--memory", "200m", "--memory-swap", "200m")
    container = harbour.start(tmp_path / "ml", build_request({"train": pictures}, SCRATCH), little)
    ended(container, 137, "The job's process was terminated by SIGKILL, usually because memory ran out")


@pytest.mark.parametrize(
    "statement, code, beginning",
    [
        ("sys.exit(3)", 1, "named:main ended with SystemExit: 3"),
        ("raise OSError('no weights')", 1, "named:main ended with OSError: no weights"),
        ("raise KeyboardInterrupt", 1, "named:main ended with KeyboardInterrupt"),
        ("argparse.ArgumentParser().parse_args(['--x'])", 1, "named:main ended with SystemExit: 2"),
        ("os._exit(0)", 3, "The job ended without an error but never reported success"),
        ("os.kill(os.getpid(), 11)", 139, "The job's process was terminated by SIGSEGV"),
    ],
)
def test_what_sagemaker_training_takes_for_success_fails(
    statement: str, code: int, beginning: str, harbour: Harbour, tmp_path: Path
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "named.py").write_text(f"import argparse, os, sys\ndef main(): {statement}\n")
    manner = with_options(
        *("--volume", f"{tmp_path / 'modules'}:/modules:ro"),
        environment=("PYTHONPATH=/modules", f"{MODULE}=named:main"),
    )
    ended(harbour.start(tmp_path / "ml", TrainingRequest(checkpoint_path=None), manner), code, beginning)


def test_an_opt_ml_without_anything_fails(harbour: Harbour, tmp_path: Path) -> None:
    (tmp_path / "ml").mkdir()
    container = harbour.start_in(JobFolder(tmp_path / "ml"))
    ended(container, 1, "")
    assert "train" in container.failure.splitlines()[0]
