"""Selects the first failure of a job from the reports of its hosts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune.errors import JobError, PlatformError, UserError
from finetune.messages import Lines
from finetune.sagemaker.failure import Failure

_ERRORS: tuple[type[JobError], ...] = (UserError, PlatformError)


@dataclass(frozen=True, slots=True)
class Report:
    """A failure that a host has reported.

    Attributes:
        failure: the failure, with the origin in its message.
        occurred_at: seconds on the clock of the receiving host.
        is_consequence: whether it probably follows from another failure, as a connection that a peer has closed does.
    """

    failure: Failure
    occurred_at: float
    is_consequence: bool = False


class FirstFailure:
    """Collects reports for a short time after the first one, then selects the earliest.

    The processes of other hosts often notice a failure, as a closed connection, before its cause is reported.
    Consequences are therefore selected only if no other report arrives in time.

    Args:
        settle_seconds: time to wait for earlier failures after the first report.
        consequence_settle_seconds: the same while all reports are consequences.
    """

    def __init__(self, settle_seconds: float, consequence_settle_seconds: float) -> None:
        self._settle = settle_seconds
        self._consequence_settle = consequence_settle_seconds
        self._reports: list[Report] = []
        self._deadline = float("inf")

    def add(self, report: Report, now: float) -> None:
        """Add a report that arrived at `now`."""
        self._reports.append(report)
        settle = self._consequence_settle if report.is_consequence else self._settle
        self._deadline = min(self._deadline, now + settle)

    @property
    def deadline(self) -> float:
        """Time at which to select; infinite without a report."""
        return self._deadline

    def selected(self) -> Failure | None:
        """The earliest failure that is not a consequence, else the earliest."""
        if not self._reports:
            return None
        return min(self._reports, key=lambda report: (report.is_consequence, report.occurred_at)).failure


def with_origin(failure: Failure, host: str | None, rank: int | None = None) -> Failure:
    """Put the host and the rank in front of the message of a failure."""
    origin = ", ".join(filter(None, (host, None if rank is None else f"rank {rank}")))
    return replace(failure, message=f"{origin}: {failure.message}") if origin else failure


def error_of(failure: Failure) -> JobError:
    """The exception for a failure: of the kind with its exit code, else a `JobError`."""
    kind = next((kind for kind in _ERRORS if kind.exit_code == failure.exit_code), JobError)
    return kind(Lines(failure.message))
