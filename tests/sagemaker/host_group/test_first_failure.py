"""The first failure of a job is the earliest that does not follow from another one."""

from __future__ import annotations

import pytest

from finetune.errors import JobError, PlatformError, UserError
from finetune.sagemaker.failure import Failure
from finetune.sagemaker.host_group.first_failure import FirstFailure, Report, error_of, with_origin


def failure(message: str, exit_code: int = 1) -> Failure:
    return Failure(message, exit_code, expected=True)


def report(message: str, occurred_at: float, *, is_consequence: bool = False) -> Report:
    return Report(failure(message), occurred_at, is_consequence)


def test_no_report_selects_nothing() -> None:
    failures = FirstFailure(1.0, 20.0)
    assert failures.selected() is None
    assert failures.deadline == float("inf")


@pytest.mark.parametrize(
    ("reports", "first"),
    [
        ([report("a", 2.0), report("b", 1.0)], "b"),
        ([report("a", 1.0), report("b", 1.0)], "a"),
        ([report("a", 1.0, is_consequence=True), report("b", 2.0)], "b"),
        ([report("a", 2.0, is_consequence=True), report("b", 1.0, is_consequence=True)], "b"),
    ],
)
def test_earliest_failure_is_selected(reports: list[Report], first: str) -> None:
    failures = FirstFailure(1.0, 20.0)
    for number, each in enumerate(reports):
        failures.add(each, 10.0 + number)
    assert failures.selected() == failure(first)


def test_consequences_wait_longer_for_a_cause() -> None:
    failures = FirstFailure(1.0, 20.0)
    failures.add(report("a", 0.0, is_consequence=True), 100.0)
    assert failures.deadline == 120.0
    failures.add(report("b", 0.0), 105.0)
    assert failures.deadline == 106.0
    failures.add(report("c", 0.0), 105.5)
    assert failures.deadline == 106.0


@pytest.mark.parametrize(
    ("host", "rank", "message"),
    [
        ("algo-2", 11, "algo-2, rank 11: full"),
        ("algo-2", None, "algo-2: full"),
        (None, 0, "rank 0: full"),
        (None, None, "full"),
    ],
)
def test_origin_comes_before_the_message(host: str | None, rank: int | None, message: str) -> None:
    assert with_origin(failure("full", 137), host, rank) == failure(message, 137)


@pytest.mark.parametrize(("exit_code", "kind"), [(1, UserError), (2, PlatformError), (3, JobError), (137, JobError)])
def test_failure_becomes_an_exception_of_its_kind(exit_code: int, kind: type[JobError]) -> None:
    error = error_of(failure("first\nsecond", exit_code))
    assert type(error) is kind
    assert str(error) == "first\nsecond"
