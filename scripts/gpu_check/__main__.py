"""Runs all parts, each in its own process and time budget, and prints their tables as Markdown."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from gpu_check.requirements import OPTIONAL, missing, problems, versions

_PART_NAMES = ("tests", "passes", "jobs", "virtual-devices", "determinism", "speed")
_MIN_SECONDS = 5.0


def main() -> int:
    """Return the exit code: 1 if nothing can run, or if a part ended with an error."""
    options = _parse()
    if reasons := problems():
        print("\n".join(reasons), file=sys.stderr)
        return 1
    import torch

    if not torch.cuda.is_available() and not options.dry_run:
        print("PyTorch finds no GPU: use --dry-run to test the script on a CPU", file=sys.stderr)
        return 1
    if options.dry_run:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models
    deadline = time.monotonic() + (options.seconds or (3600.0 if options.dry_run else 465.0))
    _write(_heading(), options.output, begin=True)
    failed = False
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        for name in options.parts:
            text, succeeded = _run_part(name, Path(folder), deadline, dry=options.dry_run)
            failed |= not succeeded
            _write(text, options.output)
    return int(failed)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__)
    parser.add_argument("--output", type=Path, help="file that also gets the tables")
    parser.add_argument("--dry-run", action="store_true", help="run everything with tiny sizes, also on a CPU")
    parser.add_argument(
        "--seconds", type=float, help="limit for all parts together; default: 465, and 3600 in a dry run"
    )
    parser.add_argument("--parts", nargs="+", choices=_PART_NAMES, default=_PART_NAMES, help="default: all")
    return parser.parse_args()


def _heading() -> str:
    import torch

    lines = ["# GPU check", ""]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        capability = f"{properties.major}.{properties.minor}"
        lines += [f"- Device: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, capability {capability}"]
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # untyped in torch
        lines += [f"- Driver: {_driver()}; CUDA {torch.version.cuda}; cuDNN {cudnn}"]
    else:
        lines += ["- Device: no GPU", "- Driver: none"]
    lines += [f"- Host: {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"]
    lines += [f"- Packages: {versions()}"]
    if absent := missing(OPTIONAL):
        lines += [f"- Missing optional packages: {', '.join(absent)}"]
    return "\n".join(lines) + "\n"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({type(error).__name__})"


def _run_part(name: str, folder: Path, deadline: float, *, dry: bool) -> tuple[str, bool]:
    """The tables of a part, followed by a line about its duration; and whether it succeeded."""
    from gpu_check.parts import PARTS
    from gpu_check.results import one_line, read_rows, render

    part, rows, log = PARTS[name], folder / f"{name}.jsonl", folder / f"{name}.log"
    start = time.monotonic()
    limit = deadline - start if dry else min(part.seconds, deadline - start)
    status = "not run: no time is left"
    if limit > _MIN_SECONDS:
        status = _run_process((name, folder / name, rows, log, dry), limit)
    if status.startswith("failed"):
        status += f": {one_line(log.read_text('utf-8', 'replace'))}"
    tables = "\n".join(render(table, read_rows(rows)) for table in part.tables)
    return f"{tables}\nPart `{name}`: {status}, {time.monotonic() - start:.0f} s.\n", status == "finished"


def _run_process(arguments: tuple[str, Path, Path, Path, bool], limit: float) -> str:
    """Run a part in its own process. Without a GPU it is forked, which repeats no import; CUDA survives no fork."""
    import torch

    from gpu_check.parts import run_part

    process: BaseProcess
    if torch.cuda.is_available():
        process = multiprocessing.get_context("spawn").Process(target=run_part, args=arguments)
    else:
        process = multiprocessing.get_context("fork").Process(target=run_part, args=arguments)
    process.start()
    process.join(limit)
    if process.exitcode is None and process.pid is not None:
        with suppress(ProcessLookupError):  # it has not begun its session yet
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        return f"stopped after {limit:.0f} s"
    return "finished" if process.exitcode == 0 else f"failed with exit code {process.exitcode}"


def _write(text: str, output: Path | None, *, begin: bool = False) -> None:
    """Print a part of the report, and append it to the file."""
    print(text, flush=True)
    if output is not None:
        with output.open("w" if begin else "a", encoding="utf-8") as file:
            file.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
