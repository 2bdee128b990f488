"""Files by which the processes of a host tell the agent that started them their process id and how they ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from finetune.runtime.atomic_files import write_text_atomically
from finetune.sagemaker.failure import Failure

FOLDER = "FINETUNE_RANK_FOLDER"
"""Environment variable with the folder of the files; absent if another launcher started the process."""

AGENT = "FINETUNE_AGENT"
"""Environment variable with the process id of the agent."""


@dataclass(frozen=True, slots=True)
class RankFailure:
    """The failure of a process.

    Attributes:
        rank: Index of the process in the job.
        failure: The failure.
        time: When it occurred, in seconds since the epoch.
        is_consequence: Whether the process failed because another one had ended.
        names_process: Whether the message names the process.
    """

    rank: int
    failure: Failure
    time: float
    is_consequence: bool
    names_process: bool = False


@dataclass(frozen=True, slots=True)
class RankFiles:
    """The files of the processes of a host, in a folder that the agent makes."""

    folder: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """Return the files of the agent that started this process; `None` under another launcher."""
        folder = environment.get(FOLDER)
        return None if folder is None else cls(Path(folder))

    def announce(self, rank: int) -> None:
        """Announce that this process handles SIGTERM from now on."""
        write_text_atomically(self.folder / f"{rank}.pid", str(os.getpid()))

    def processes(self) -> dict[int, int]:
        """Return the ids of the processes that have announced themselves, by rank."""
        return {int(path.stem): int(path.read_text(encoding="utf-8")) for path in self.folder.glob("*.pid")}

    def computations_of(self, rank: int) -> Path:
        """Return the file in which a process notes its computations."""
        return self.folder / f"{rank}.computation"

    def finish(self, rank: int) -> None:
        """Note that this process has done its part of the job."""
        (self.folder / f"{rank}.finished").touch()

    def finished(self) -> set[int]:
        """Return the ranks of the processes that have done their part of the job."""
        return {int(path.stem) for path in self.folder.glob("*.finished")}

    def write_failure(self, rank: int, failure: Failure, *, is_consequence: bool) -> None:
        """Write the failure of a process."""
        content = {
            "message": failure.message,
            "exit_code": failure.exit_code,
            "expected": failure.expected,
            "time": time.time(),
            "is_consequence": is_consequence,
        }
        write_text_atomically(self.folder / f"{rank}.failure", json.dumps(content))

    def failures(self) -> Iterator[RankFailure]:
        """Yield the failures of the processes that could write them."""
        for path in self.folder.glob("*.failure"):
            with suppress(OSError, ValueError, KeyError):
                content = json.loads(path.read_text(encoding="utf-8"))
                failure = Failure(content["message"], content["exit_code"], content["expected"])
                yield RankFailure(int(path.stem), failure, content["time"], content["is_consequence"])
