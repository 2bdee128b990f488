"""Command line: runs a job and prints its result and the locations of its files."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TextIO

from sagemaker_simulator.arguments import Order, read_order
from sagemaker_simulator.configuration import RequestError
from sagemaker_simulator.plan import StopButton
from sagemaker_simulator.result import JobResult
from sagemaker_simulator.spot import run_with_interruptions

USAGE_EXIT_CODE = 64
"""Exit code of an invalid request (`EX_USAGE` of BSD's sysexits), distinct from all exit codes of a job."""

KILLED_EXIT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job described by the command line.

    Args:
        arguments: Arguments without the program name; `None` for those of the process.

    Returns:
        0 for a completed or stopped job, the job's exit code for a failed one.
    """
    try:
        order = read_order(sys.argv[1:] if arguments is None else arguments)
        _announce(order, sys.stdout)
        with _stop_on_interrupt(order) as stop:
            results = run_with_interruptions(order.job, order.machine, order.interruptions, stop)
    except RequestError as error:
        sys.stderr.write(f"run-local: {error}\n")
        return USAGE_EXIT_CODE
    except KeyboardInterrupt:
        sys.stderr.write("run-local: the job was killed\n")
        return KILLED_EXIT_CODE
    _report(order, results, sys.stdout)
    return results[-1].exit_code if results[-1].status == "Failed" else 0


@contextlib.contextmanager
def _stop_on_interrupt(order: Order) -> Iterator[StopButton]:
    button = StopButton(order.grace_seconds)

    def press(_number: int, _frame: FrameType | None) -> None:
        button.press()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield button
    finally:
        signal.signal(signal.SIGINT, before)


def _announce(order: Order, out: TextIO) -> None:
    lines = [f"job          {order.job.request.name}", f"/opt/ml is   {order.machine}"]
    for number, interruption in enumerate(order.interruptions):
        lines.append(f"start {number}      {interruption.kind} after {interruption.moment.seconds:.3f} s")
    if order.interruptions:
        lines.append(f"seed         {order.seed}")
    out.write("\n".join(lines) + "\n\n")
    out.flush()


def _report(order: Order, results: Sequence[JobResult], out: TextIO) -> None:
    last = results[-1]
    lines = [""]
    for number, result in enumerate(results):
        lines.append(f"start {number}      {result.status} after {result.seconds:.1f} s, exit code {result.exit_code}")
    if last.failure_reason is not None:
        lines.append(f"reason       {last.failure_reason.rstrip()}")
    places = {
        "log": last.log,
        "model": last.model,
        "output": last.output,
        "checkpoints": order.job.storage.checkpoints,
    }
    lines += [f"{name:<12} {path}" for name, path in places.items() if path is not None]
    out.write("\n".join(lines) + "\n")
