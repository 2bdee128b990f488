"""Repeated steps are counted, and an unreadable or unwritable history file is harmless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.training.run_history import RunHistoryFile, process_age


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def killed_after(folder: Path, first: int, last: int) -> RunHistoryFile:
    clock = Clock()
    book = RunHistoryFile(folder, clock)
    book.open(restart=False)
    book.begin(first, 0.25)
    for step in range(first + 1, last + 1):
        clock.now += 2.0
        book.step_done(step)
    return book


def test_steps_that_were_done_again(tmp_path: Path) -> None:
    killed_after(tmp_path, 0, 10)
    killed_after(tmp_path, 6, 9)
    account = killed_after(tmp_path, 8, 12).account
    assert account.starts == 3
    assert account.steps_repeated == 4 + 1
    assert account.last_step == 12
    assert account.load_seconds == 0.75


def test_the_time_of_killed_starts_is_counted_up_to_their_last_word(tmp_path: Path) -> None:
    for start in range(3):
        clock, spent = Clock(), {"forward": 0.0}
        book = RunHistoryFile(tmp_path, clock)
        book.open(restart=False)
        book.begin(start, 0.0, lambda spent=spent: {"data": 0.5, **spent}, lambda: (0.25, 0.75))  # type: ignore[misc]
        for step in range(start, start + 2):
            clock.now += 2.0
            spent["forward"] += 10.0
            book.step_done(step + 1)
    account = book.account
    # Of two steps per start, the first counts as start-up.
    assert account.parts == {"data": 0.0, "forward": 30.0}
    assert (account.stall_seconds, account.save_seconds) == (0.75, 2.25)
    assert 0 < account.start_seconds <= account.run_seconds


def test_a_start_that_was_killed_before_its_first_step_was_starting(tmp_path: Path) -> None:
    killed_after(tmp_path, 0, 0)
    before = json.loads((tmp_path / "account.json").read_text("utf-8"))
    assert before["start_seconds"] == before["run_seconds"] > 0
    account = killed_after(tmp_path, 0, 1).account
    assert account.start_seconds > before["start_seconds"] + 0.9 * before["run_seconds"]


def test_a_job_that_begins_anew(tmp_path: Path) -> None:
    killed_after(tmp_path, 0, 10)
    book = RunHistoryFile(tmp_path)
    book.open(restart=True)
    book.begin(0, 0.0)
    told = book.account.as_json()
    assert told.pop("start_seconds") == told.pop("run_seconds") > 0
    assert told == {**dict.fromkeys(told, 0), "starts": 1, "parts": {}, "machine_findings": []}


def test_a_checkpoint_brings_the_account_to_an_empty_folder(tmp_path: Path) -> None:
    state = json.loads(json.dumps(killed_after(tmp_path / "gone", 0, 10).state_dict()))
    book = RunHistoryFile(tmp_path / "new")
    book.open(restart=False)
    book.load_state_dict(state)
    book.begin(10, 0.0)
    assert (book.account.starts, book.account.last_step, book.account.steps_repeated) == (2, 10, 0)


def test_the_later_of_two_accounts_counts(tmp_path: Path) -> None:
    early = killed_after(tmp_path, 0, 5).state_dict()
    killed_after(tmp_path, 5, 20)
    book = RunHistoryFile(tmp_path)
    book.open(restart=False)
    book.load_state_dict(early)
    assert (book.account.starts, book.account.last_step) == (3, 20)


def test_the_account_is_on_disk_as_soon_as_the_first_checkpoint_whoever_makes_the_folder(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "not" / "there"
    book = RunHistoryFile(folder, clock)
    book.open(restart=False)
    assert json.loads((folder / "account.json").read_text("utf-8"))["starts"] == 1
    book.begin(0, 0.0, lambda: {"forward": clock.now})
    for step in range(1, 4):
        # Steps of a fast machine, between two timed writes.
        clock.now += 0.01
        book.step_done(step)
    book.state_dict()
    written = json.loads((folder / "account.json").read_text("utf-8"))
    assert (written["last_step"], written["parts"]) == (3, {"forward": 0.02})


@pytest.mark.parametrize("content", ["", "[]", "3", '{"starts": "many"}', '{"starts": Infinity}', '{"last_step": []}'])
def test_an_account_that_cannot_be_read(content: str, tmp_path: Path) -> None:
    (tmp_path / "account.json").write_text(content, "utf-8")
    book = RunHistoryFile(tmp_path)
    book.open(restart=False)
    assert book.account.starts == 1


def test_no_folder() -> None:
    book = RunHistoryFile(None)
    book.open(restart=False)
    book.begin(0, 0.0)
    book.step_done(1)
    book.close()
    assert book.account.run_seconds > 0


def test_the_age_of_this_process() -> None:
    first = process_age()
    assert 0.0 < first <= process_age()
