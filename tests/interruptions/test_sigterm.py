"""A stopped job finishes its step, saves, exports the partially trained model, and exits with 0 in time."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import Channel, Interruption, Moment, Storage, TrainingJob, run_job, run_with_interruptions
from tests.interruptions.jobs import text_job, vision_job, write_texts
from tests.interruptions.moments import UNFINISHED, after_line, at_artifact, at_file, at_startup
from tests.interruptions.results import JobOutput, assert_same_bits, read_output, read_run_history
from tests.interruptions.starts import Disturbance, StartResult, Zygote, start, with_changes

PATIENCE_SECONDS = 60.0
"""Half of the platform's limit; on an idle machine the jobs take a fraction of a second."""
ATTEMPTS = 5


def sigterm(disturbance: Disturbance, times: int = 1) -> Disturbance:
    return replace(disturbance, signals=(signal.SIGTERM,) * times)


def assert_clean_exit(result: StartResult) -> StartResult:
    assert result.exit_code == 0, result.log
    assert result.seconds_after_signal < PATIENCE_SECONDS
    return result


def stop_job(
    disturbance: Disturbance, zygote: Zygote, job: TrainingJob, folder: Path
) -> tuple[TrainingJob, StartResult]:
    """Stop a job, or another one if it ended before the moment; return the stopped job and its end."""
    for attempt in range(ATTEMPTS):
        attempted_job = replace(job, storage=Storage(folder / f"s3-{attempt}"))
        result = assert_clean_exit(start(zygote, attempted_job, folder / "opt-ml", disturbance))
        if result.disturbed:
            return attempted_job, result
    raise AssertionError(f"too late {ATTEMPTS} times: {disturbance.name}")


def run_uninterrupted(zygote: Zygote, job: TrainingJob, folder: Path) -> JobOutput:
    return read_output(
        assert_clean_exit(start(zygote, replace(job, storage=Storage(folder / "reference")), folder / "whole")).folder
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TrainingJob, JobOutput]]:
    """A job and its output in a separate process, for comparison with all forked ones."""
    folder = tmp_path_factory.mktemp("whole")
    job = vision_job(folder / "job", "gradual")
    result = run_job(replace(job, storage=Storage(folder / "reference")), folder / "whole")
    assert result.exit_code == 0, result.log_text()
    yield job, read_output(result.folder)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "disturbance",
    [
        at_startup(),
        after_line("Model ", 0.0),
        after_line("first batch", 0.02),
        after_line("epoch=", 0.005, 1),
        after_line("epoch=", 0.03, 2),
        at_file(UNFINISHED, 0.0, 0.0),
        after_line("epoch=4", 0.0),
        at_artifact(0.0),
        after_line("Exported", 0.0),
    ],
    ids=[
        *("start-up", "before the first step", "the first epoch", "after an epoch", "training", "a save"),
        *("the last evaluation", "the export", "the proof"),
    ],
)
def test_stopped_job_exits_and_resumes_with_same_result(
    disturbance: Disturbance, times: int, zygote: Zygote, reference: tuple[TrainingJob, JobOutput], tmp_path: Path
) -> None:
    job, stopped = stop_job(sigterm(disturbance, times), zygote, reference[0], tmp_path)
    if "there is no model" not in stopped.log:
        assert "exported the partially trained model" in stopped.log or "Done." in stopped.log
        assert (stopped.folder.model / "artifact.json").exists()
    if times == 2:
        assert_clean_exit(start(zygote, job, tmp_path / "opt-ml", sigterm(after_line("Resumed", 0.0), times)))
    resumed = assert_clean_exit(start(zygote, job, tmp_path / "opt-ml"))
    assert_same_bits(read_output(resumed.folder), reference[1])


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_interrupted_evaluation_is_repeated(times: int, zygote: Zygote, tmp_path: Path) -> None:
    """An evaluation of 2,000 texts after every six steps, so that SIGTERM almost always arrives during one."""
    job = text_job(tmp_path / "job", "full", gradient_accumulation_steps="1")
    validation = Channel("validation", write_texts(tmp_path / "validation", 2000))
    job = replace(job, request=replace(job.request, channels=(*job.request.channels, validation)))
    expected = run_uninterrupted(zygote, job, tmp_path)
    for attempt in range(ATTEMPTS):
        job = replace(job, storage=Storage(tmp_path / f"s3-{attempt}"))
        disturbance = after_line("epoch=", 0.1 + 0.1 * attempt, 1 + attempt % 2)
        stopped = assert_clean_exit(start(zygote, job, tmp_path / "opt-ml", sigterm(disturbance, times)))
        resumed = assert_clean_exit(start(zygote, job, tmp_path / "opt-ml"))
        assert_same_bits(read_output(resumed.folder), expected)
        match = re.search(r"Resumed from checkpoint .*: epoch (\d+), step (\d+)\.", resumed.log)
        assert match is not None, resumed.log
        epoch, step = int(match[1]), int(match[2])
        # All steps of the epoch are done, but its line was not logged.
        if step == 8 * epoch and len(stopped.epoch_lines()) == epoch - 1:
            return
    raise AssertionError("SIGTERM never came in an evaluation")


@pytest.mark.slow
def test_no_step_is_repeated_after_sigterm(zygote: Zygote, tmp_path: Path) -> None:
    job = with_changes(text_job(tmp_path / "job", "full", epochs="30"), checkpoint_interval_steps=None)
    job, _ = stop_job(sigterm(after_line("epoch=", 0.02, 4)), zygote, job, tmp_path)
    resumed = start(zygote, job, tmp_path / "opt-ml")
    history = read_run_history(resumed.folder)
    assert history["starts"] == 2
    assert history["steps_repeated"] == 0
    assert history["last_step"] == 90
    assert history["start_seconds"] > 0


def test_nothing_is_exported_before_first_step(zygote: Zygote, tmp_path: Path) -> None:
    job = text_job(tmp_path / "job", "full")
    stopped = start(zygote, job, tmp_path / "opt-ml", sigterm(after_line("Model ", 0.0)))
    assert stopped.exit_code == 0, stopped.log
    if "first batch" not in stopped.log:  # otherwise it was too late
        assert "there is no model to export" in stopped.log
        assert not list(stopped.folder.model.iterdir())


@pytest.mark.slow
def test_processes_started_by_platform_train_command(zygote: Zygote, tmp_path: Path) -> None:
    """As in the image: start-up takes seconds, and SIGTERM also comes while torch is being imported.

    They are compared with an uninterrupted fork, so that the forks of the other tests are equally valid.
    """
    job = text_job(tmp_path / "job", "partial", epochs="40")
    interruptions = (
        Interruption(Moment(0.0, "label from column"), "reclaim"),
        Interruption(Moment(0.02, "epoch=2;"), "reclaim_twice"),
        Interruption(Moment(0.0, "epoch=40;"), "reclaim"),
    )
    results = run_with_interruptions(job, tmp_path / "opt-ml", interruptions)
    for attempted_job in results[:-1]:
        # The toolkit ignores signals after the job has finished; in the image the first process handles them.
        finished = any(word in attempted_job.log_text() for word in ("Stopped", "Done."))
        assert attempted_job.exit_code in ({0, 143} if finished else {0}), attempted_job.log_text()
        assert (attempted_job.seconds_after_sigterm or 0.0) < PATIENCE_SECONDS
    assert results[-1].status == "Completed", results[-1].log_text()
    assert_same_bits(read_output(results[-1].folder), run_uninterrupted(zygote, job, tmp_path))
