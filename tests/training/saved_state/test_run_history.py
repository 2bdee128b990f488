"""Repeated steps are counted, and an unreadable or unwritable history file is harmless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.training.saved_state.run_history import RunHistoryFile, process_age


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run_until_killed(folder: Path, first: int, last: int) -> RunHistoryFile:
    clock = Clock()
    file = RunHistoryFile(folder, clock)
    file.open(restart=False)
    file.begin(first, 0.25)
    for step in range(first + 1, last + 1):
        clock.now += 2.0
        file.step_done(step)
    return file


def test_repeated_steps_are_counted(tmp_path: Path) -> None:
    run_until_killed(tmp_path, 0, 10)
    run_until_killed(tmp_path, 6, 9)
    history = run_until_killed(tmp_path, 8, 12).account
    assert history.starts == 3
    assert history.steps_repeated == 4 + 1
    assert history.last_step == 12
    assert history.load_seconds == 0.75


def test_time_of_killed_starts_is_counted_up_to_their_last_write(tmp_path: Path) -> None:
    for start in range(3):
        clock, spent = Clock(), {"forward": 0.0}
        file = RunHistoryFile(tmp_path, clock)
        file.open(restart=False)
        file.begin(start, 0.0, lambda spent=spent: {"data": 0.5, **spent}, lambda: (0.25, 0.75))  # type: ignore[misc]
        for step in range(start, start + 2):
            clock.now += 2.0
            spent["forward"] += 10.0
            file.step_done(step + 1)
    history = file.account
    # Of two steps per start, the first counts as start-up.
    assert history.parts == {"data": 0.0, "forward": 30.0}
    assert (history.stall_seconds, history.save_seconds) == (0.75, 2.25)
    assert 0 < history.start_seconds <= history.run_seconds


def test_start_killed_before_its_first_step_counts_as_start_time(tmp_path: Path) -> None:
    run_until_killed(tmp_path, 0, 0)
    before = json.loads((tmp_path / "account.json").read_text("utf-8"))
    assert before["start_seconds"] == before["run_seconds"] > 0
    history = run_until_killed(tmp_path, 0, 1).account
    assert history.start_seconds > before["start_seconds"] + 0.9 * before["run_seconds"]


def test_restart_discards_earlier_starts(tmp_path: Path) -> None:
    run_until_killed(tmp_path, 0, 10)
    file = RunHistoryFile(tmp_path)
    file.open(restart=True)
    file.begin(0, 0.0)
    values = file.account.as_json()
    assert values.pop("start_seconds") == values.pop("run_seconds") > 0
    assert values == {**dict.fromkeys(values, 0), "starts": 1, "parts": {}, "machine_findings": []}


def test_run_history_is_restored_from_a_checkpoint(tmp_path: Path) -> None:
    state = json.loads(json.dumps(run_until_killed(tmp_path / "gone", 0, 10).state_dict()))
    file = RunHistoryFile(tmp_path / "new")
    file.open(restart=False)
    file.load_state_dict(state)
    file.begin(10, 0.0)
    assert (file.account.starts, file.account.last_step, file.account.steps_repeated) == (2, 10, 0)


def test_later_of_two_run_histories_wins(tmp_path: Path) -> None:
    early = run_until_killed(tmp_path, 0, 5).state_dict()
    run_until_killed(tmp_path, 5, 20)
    file = RunHistoryFile(tmp_path)
    file.open(restart=False)
    file.load_state_dict(early)
    assert (file.account.starts, file.account.last_step) == (3, 20)


def test_run_history_is_written_with_the_first_checkpoint(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "not" / "there"
    file = RunHistoryFile(folder, clock)
    file.open(restart=False)
    assert json.loads((folder / "account.json").read_text("utf-8"))["starts"] == 1
    file.begin(0, 0.0, lambda: {"forward": clock.now})
    for step in range(1, 4):
        # Steps of a fast machine, between two timed writes.
        clock.now += 0.01
        file.step_done(step)
    file.state_dict()
    written = json.loads((folder / "account.json").read_text("utf-8"))
    assert (written["last_step"], written["parts"]) == (3, {"forward": 0.02})


@pytest.mark.parametrize("content", ["", "[]", "3", '{"starts": "many"}', '{"starts": Infinity}', '{"last_step": []}'])
def test_unreadable_run_history_is_ignored(content: str, tmp_path: Path) -> None:
    (tmp_path / "account.json").write_text(content, "utf-8")
    file = RunHistoryFile(tmp_path)
    file.open(restart=False)
    assert file.account.starts == 1


def test_run_history_without_folder() -> None:
    file = RunHistoryFile(None)
    file.open(restart=False)
    file.begin(0, 0.0)
    file.step_done(1)
    file.close()
    assert file.account.run_seconds > 0


def test_process_age_is_positive_and_increases() -> None:
    first = process_age()
    assert 0.0 < first <= process_age()
