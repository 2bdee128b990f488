"""Helpers of the simulator tests: jobs of a few lines, and waiting with a timeout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from sagemaker_simulator import Storage, TrainingJob, TrainingRequest

PREAMBLE = "import os, sys, time, signal, pathlib; base = pathlib.Path(os.environ['SAGEMAKER_BASE_DIR'])\n"


def python_job(code: str, folder: Path) -> TrainingJob:
    """A job that runs Python code in which `base` is `/opt/ml`; its storage is `place/s3`."""
    return TrainingJob(TrainingRequest(), (sys.executable, "-u", "-c", PREAMBLE + code), Storage(folder / "s3"))


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, and fail after a timeout long enough for a busy machine."""
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.005)
