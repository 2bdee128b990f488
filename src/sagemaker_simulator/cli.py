"""Command line: runs a job and prints its result and the locations of its files."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TextIO

from sagemaker_simulator.arguments import CommandLine, parse_command_line
from sagemaker_simulator.configuration import RequestError
from sagemaker_simulator.plan import StopRequest
from sagemaker_simulator.result import HostResult, JobResult
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
        command_line = parse_command_line(sys.argv[1:] if arguments is None else arguments)
        _print_job(command_line, sys.stdout)
        with _stop_on_interrupt(command_line) as stop:
            results = run_with_interruptions(
                command_line.job, command_line.machine, command_line.interruptions, stop, command_line.worlds
            )
    except RequestError as error:
        sys.stderr.write(f"run-local: {error}\n")
        return USAGE_EXIT_CODE
    except KeyboardInterrupt:
        sys.stderr.write("run-local: the job was killed\n")
        return KILLED_EXIT_CODE
    _print_results(command_line, results, sys.stdout)
    return results[-1].exit_code if results[-1].status == "Failed" else 0


@contextlib.contextmanager
def _stop_on_interrupt(command_line: CommandLine) -> Iterator[StopRequest]:
    request = StopRequest(command_line.grace_seconds)

    def submit(_number: int, _frame: FrameType | None) -> None:
        request.submit()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, submit)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, previous)


def _print_job(command_line: CommandLine, stream: TextIO) -> None:
    lines = [f"job          {command_line.job.request.name}", f"/opt/ml      {command_line.machine}"]
    for number, interruption in enumerate(command_line.interruptions):
        host = "" if interruption.host is None else f" of {interruption.host}"
        lines.append(f"start {number}      {interruption.kind}{host} after {interruption.moment.seconds:.3f} s")
    for number, world in enumerate(command_line.worlds, start=1):
        processes = "" if world.processes_per_host is None else f", {world.processes_per_host} processes per host"
        lines.append(f"restart {number}    {world.hosts} {'host' if world.hosts == 1 else 'hosts'}{processes}")
    if command_line.interruptions:
        lines.append(f"seed         {command_line.seed}")
    stream.write("\n".join(lines) + "\n\n")
    stream.flush()


def _print_results(command_line: CommandLine, results: Sequence[JobResult], stream: TextIO) -> None:
    last = results[-1]
    lines = [""]
    for number, result in enumerate(results):
        seconds = result.seconds_after_interruption
        after = "" if seconds is None else f", {seconds:.1f} s after the interruption"
        lines.append(
            f"start {number}      {result.status} after {result.seconds:.1f} s{after}, exit code {result.exit_code}"
        )
        if len(result.hosts) > 1:
            lines += [_describe_host(host) for host in result.hosts]
    if last.failure_reason is not None:
        lines.append(f"reason       {last.failure_reason.rstrip()}")
    paths = {
        "log": last.log,
        "model": last.model,
        "output": last.output,
        "checkpoints": command_line.job.storage.checkpoints,
    }
    lines += [f"clash        {name} was written by more than one host" for name in last.clashes]
    lines += [f"{name:<12} {path}" for name, path in paths.items() if path is not None]
    stream.write("\n".join(lines) + "\n")


def _describe_host(host: HostResult) -> str:
    killed = ", killed" if host.was_killed else ""
    cause = f": {host.failure.splitlines()[0]}" if host.failure else ""
    return f"  {host.name:<10} exit code {host.exit_code} after {host.seconds:.1f} s{killed}{cause}"
