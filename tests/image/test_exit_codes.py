"""Exit code and first line of the failure file for each kind of failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import JobFolder, Resources, TrainingRequest, lay_out
from tests.image.containers import ML, UNPRIVILEGED, Container, ContainerRunner, RunOptions
from tests.support.whole_jobs import build_request

SCRATCH = {"strategy": "from_scratch", "model_name": "resnet18", "image_size": "32", "epochs": "1", "batch_size": "8"}
MODULE = "SAGEMAKER_TRAINING_MODULE"


def with_options(*options: str, environment: tuple[str, ...] = ()) -> RunOptions:
    return RunOptions(UNPRIVILEGED.user, (*UNPRIVILEGED.options, *options), (*UNPRIVILEGED.environment, *environment))


def assert_failed(container: Container, code: int, prefix: str) -> None:
    assert container.wait() == code, container.log()
    assert container.failure.startswith(prefix), container.failure
    assert not (container.folder.output / "success").exists()


def test_invalid_hyperparameter_is_user_error(train_images: Path, runner: ContainerRunner, tmp_path: Path) -> None:
    container = runner.start(tmp_path / "ml", build_request({"train": train_images}, {"epoch": "3"}))
    assert_failed(container, 1, "Unknown hyperparameter 'epoch'")


def test_invalid_data_is_user_error(train_images: Path, runner: ContainerRunner, tmp_path: Path) -> None:
    (tmp_path / "one-class" / "only").mkdir(parents=True)
    (tmp_path / "one-class" / "only" / "a.png").write_bytes((train_images / "red" / "000.png").read_bytes())
    container = runner.start(tmp_path / "ml", build_request({"train": tmp_path / "one-class"}, SCRATCH))
    assert_failed(container, 1, "")
    assert "train" in container.failure.splitlines()[0]


def test_missing_gpu_is_platform_error(train_images: Path, runner: ContainerRunner, tmp_path: Path) -> None:
    request = replace(
        build_request({"train": train_images}, SCRATCH), resources=Resources(instance_type="ml.g5.xlarge")
    )
    assert_failed(runner.start(tmp_path / "ml", request), 2, "A GPU is expected (ml.g5.xlarge)")


def test_full_disk_is_platform_error(train_images: Path, runner: ContainerRunner, tmp_path: Path) -> None:
    small_disk = ("--tmpfs", f"{ML}/model:size=1m,uid={UNPRIVILEGED.user}")
    container = runner.start(
        tmp_path / "ml", build_request({"train": train_images}, SCRATCH), with_options(*small_disk)
    )
    assert_failed(container, 2, "")
    assert "space" in container.failure.splitlines()[0]


def test_unwritable_folder_is_platform_error(train_images: Path, runner: ContainerRunner, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "ml", build_request({"train": train_images}, SCRATCH), Path(ML))
    read_only = ("--tmpfs", f"{ML}/model:ro")
    container = runner.start_in(folder, with_options(*read_only), [str(train_images)])
    assert_failed(container, 2, "/opt/ml/model cannot be written by user 12345")


def test_unwritable_output_fails_without_failure_file(
    train_images: Path, runner: ContainerRunner, tmp_path: Path
) -> None:
    """sagemaker-training would exit with 0."""
    folder = lay_out(tmp_path / "ml", build_request({"train": train_images}, SCRATCH), Path(ML))
    container = runner.start_in(folder, with_options("--tmpfs", f"{ML}/output:ro"), [str(train_images)])
    assert container.wait() == 2, container.log()
    assert "cannot be written" in container.log() or "Read-only" in container.log()


def test_out_of_memory_is_reported(train_images: Path, runner: ContainerRunner, tmp_path: Path) -> None:
    small_memory = with_options("--memory", "200m", "--memory-swap", "200m")
    container = runner.start(tmp_path / "ml", build_request({"train": train_images}, SCRATCH), small_memory)
    assert_failed(container, 137, "The job's process was terminated by SIGKILL, usually because memory ran out")


@pytest.mark.parametrize(
    "statement, code, prefix",
    [
        ("sys.exit(3)", 1, "named:main ended with SystemExit: 3"),
        ("raise OSError('no weights')", 1, "named:main ended with OSError: no weights"),
        ("raise KeyboardInterrupt", 1, "named:main ended with KeyboardInterrupt"),
        ("argparse.ArgumentParser().parse_args(['--x'])", 1, "named:main ended with SystemExit: 2"),
        ("os._exit(0)", 3, "The job ended without an error but never reported success"),
        ("os.kill(os.getpid(), 11)", 139, "The job's process was terminated by SIGSEGV"),
    ],
)
def test_failures_mistaken_for_success_by_toolkit_are_reported(
    statement: str, code: int, prefix: str, runner: ContainerRunner, tmp_path: Path
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "named.py").write_text(f"import argparse, os, sys\ndef main(): {statement}\n")
    run_options = with_options(
        *("--volume", f"{tmp_path / 'modules'}:/modules:ro"),
        environment=("PYTHONPATH=/modules", f"{MODULE}=named:main"),
    )
    assert_failed(runner.start(tmp_path / "ml", TrainingRequest(checkpoint_path=None), run_options), code, prefix)


def test_empty_opt_ml_fails(runner: ContainerRunner, tmp_path: Path) -> None:
    (tmp_path / "ml").mkdir()
    container = runner.start_in(JobFolder(tmp_path / "ml"))
    assert_failed(container, 1, "")
    assert "train" in container.failure.splitlines()[0]
