"""Keeps failures of optional parts of a job, such as the report, from failing the job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from finetune.errors import JobStopped
from finetune.sagemaker.failure import cause_of

logger = logging.getLogger(__name__)


@contextmanager
def optional(part: str, *, required: bool = False, reraised: type[Exception] = JobStopped) -> Iterator[None]:
    """Run a part of the job that the model does not depend on: its failure is logged as a warning.

    Interruptions are re-raised: `JobStopped`, `KeyboardInterrupt`, `SystemExit`.

    Args:
        part: name of the part, used at the start of the warning.
        required: whether this job depends on the part after all, so that every failure is re-raised.
        reraised: another exception type to re-raise.
    """
    try:
        yield
    except (JobStopped, reraised):
        raise
    except Exception as error:
        if required:
            raise
        logger.warning("%s was skipped; the job continues: %s", part, cause_of(error))


@dataclass(slots=True)
class Guard:
    """Calls functions of one optional part of the job until the first failure, which is logged once.

    Attributes:
        part: name of the part.
        failed: whether a call failed; later calls do nothing.
    """

    part: str
    failed: bool = False

    def __call__(self, call: Callable[..., object], *arguments: object) -> None:
        """Call the function, unless an earlier call failed."""
        if self.failed:
            return
        self.failed = True
        with optional(self.part):
            call(*arguments)
            self.failed = False
