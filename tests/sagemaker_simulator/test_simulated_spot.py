"""Interruption schedules, and jobs that survive them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sagemaker_simulator import Interruption, Moment, Schedule, StopRequest, draw_interruptions, run_with_interruptions
from tests.support.simulated_jobs import python_job

COUNT_STARTS = """
assert not list((base / 'model').iterdir()), 'not a fresh machine'
(base / 'model' / 'started').touch()
state = base / 'checkpoints' / 'starts'
starts = int(state.read_text()) + 1 if state.exists() else 1
temporary = state.with_name('starts.sagemaker-ignore')
temporary.write_text(str(starts))
temporary.rename(state)
while not state.with_name('starts.sagemaker-uploaded').exists(): time.sleep(0.005)
print('start', starts, base)
if starts < 4: time.sleep(60)
"""


def test_spot_job_restarts_until_completed(tmp_path: Path) -> None:
    after_the_line = Moment(0.0, "^start")
    interruptions = [
        Interruption(after_the_line),
        Interruption(after_the_line, "reclaim"),
        Interruption(after_the_line, "reclaim_twice"),
        Interruption(after_the_line),
    ]
    results = run_with_interruptions(python_job(COUNT_STARTS, tmp_path), tmp_path / "ml", interruptions[:3])
    assert [result.status for result in results] == ["Interrupted", "Interrupted", "Interrupted", "Completed"]
    assert [result.exit_code for result in results] == [137, 143, 143, 0]
    root = tmp_path / "ml"
    assert [result.log_text() for result in results] == [f"start {number} {root}\n" for number in (1, 2, 3, 4)]
    assert [result.model is None for result in results] == [True, True, True, False]


def test_failed_job_is_not_restarted(tmp_path: Path) -> None:
    results = run_with_interruptions(
        python_job("sys.exit(1)", tmp_path), tmp_path / "ml", [Interruption(Moment(60.0))] * 3
    )
    assert [result.status for result in results] == ["Failed"]


def test_stopped_job_is_not_restarted(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.submit()
    results = run_with_interruptions(
        python_job("time.sleep(60)", tmp_path), tmp_path / "ml", [Interruption(Moment(0.0))], stop
    )
    assert [result.status for result in results] == ["Stopped"]


def test_files_not_uploaded_are_lost(tmp_path: Path) -> None:
    code = """
assert not list((base / 'checkpoints').iterdir())
(base / 'checkpoints' / 'file').write_text('1')
seen = base.with_name('seen')
if not seen.exists(): seen.touch(); print('written'); time.sleep(60)
"""
    job = python_job(code, tmp_path)
    job = replace(job, sync=replace(job.sync, delay_seconds=(60.0, 60.0)))
    results = run_with_interruptions(job, tmp_path / "ml", [Interruption(Moment(0.1, "written"))])
    assert [result.status for result in results] == ["Interrupted", "Completed"]
    assert (job.storage.checkpoints / "file").exists()


def test_schedule_is_determined_by_seed() -> None:
    schedule = Schedule(0.5, 9.0, kinds=("kill", "reclaim"), patterns=("epoch", "saved"), last_occurrence=3)
    interruptions = draw_interruptions(schedule, 50, seed=1)
    assert interruptions == draw_interruptions(schedule, 50, seed=1)
    assert interruptions[:7] == draw_interruptions(schedule, 7, seed=1)
    assert interruptions != draw_interruptions(schedule, 50, seed=2)


def test_schedule_draws_from_all_options() -> None:
    schedule = Schedule(0.5, 9.0, kinds=("kill", "reclaim"), patterns=("epoch", "saved"), last_occurrence=3)
    interruptions = draw_interruptions(schedule, 100, seed=3)
    assert all(0.5 <= interruption.moment.seconds <= 9.0 for interruption in interruptions)
    assert {interruption.kind for interruption in interruptions} == {"kill", "reclaim"}
    assert {interruption.moment.pattern for interruption in interruptions} == {"epoch", "saved"}
    assert {interruption.moment.occurrence for interruption in interruptions} == {1, 2, 3}
    assert all(interruption.moment.watch is None for interruption in draw_interruptions(Schedule(0.0, 1.0), 10, seed=3))
