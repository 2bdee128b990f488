"""The first process forwards stop signals, reaps orphans, and reports the true exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from container.train import ExitStatus, failure_from_status
from tests.support.simulated_jobs import eventually

ROOT = Path(__file__).resolve().parents[2]
MADVISE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
NO_HUGE_PAGES = "glibc.malloc.hugetlb=0"


@dataclass
class Machine:
    """An `/opt/ml` in a folder, on which `train` runs the test's own module instead of the image's."""

    base: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, code: str, function: str = "main") -> subprocess.Popen[str]:
        (self.base / "named.py").write_text(f"import os, pathlib, signal, sys, time\n{code}", encoding="utf-8")
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.base),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"), str(self.base))),
            "SAGEMAKER_BASE_DIR": str(self.base / "ml"),
            "SAGEMAKER_TRAINING_MODULE": f"named:{function}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "container.train"],
            env=variables | self.environment,
            cwd=self.base,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, code: str) -> int:
        with self.start(code) as process:
            process.communicate(timeout=60)
        return process.returncode

    @property
    def failure(self) -> str:
        return (self.base / "ml" / "output" / "failure").read_text(encoding="utf-8")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "ml" / "input" / "config").mkdir(parents=True)
    yield Machine(tmp_path)


def test_successful_job_exits_with_0(machine: Machine) -> None:
    assert machine.run("def main(): pass") == 0
    assert (machine.base / "ml" / "output" / "success").exists()
    assert not (machine.base / "ml" / "output" / "failure").exists()


@pytest.mark.parametrize(
    "statement, prefix",
    [
        ("sys.exit(3)", "named:main ended with SystemExit: 3"),
        ("raise KeyboardInterrupt", "named:main ended with KeyboardInterrupt"),
        ("raise OSError('no such weights')", "named:main ended with OSError: no such weights"),
        ("raise OSError(256, 'whose errno is 0 as a byte')", "named:main ended with OSError"),
        ("raise ValueError('x')", "named:main ended with ValueError: x"),
    ],
)
def test_failures_mistaken_for_success_by_toolkit_are_reported(machine: Machine, statement: str, prefix: str) -> None:
    assert machine.run(f"def main(): {statement}") == 1
    assert machine.failure.startswith(prefix)


def test_exit_without_reported_success_is_a_failure(machine: Machine) -> None:
    assert machine.run("def main(): os._exit(0)") == 3
    assert "never reported success" in machine.failure


def test_success_file_of_earlier_job_is_ignored(machine: Machine) -> None:
    test_successful_job_exits_with_0(machine)
    assert machine.run("def main(): os._exit(0)") == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_job_exits_with_signal_code(machine: Machine, number: signal.Signals) -> None:
    assert machine.run(f"def main(): os.kill(os.getpid(), {int(number)})") == 128 + number
    assert machine.failure.startswith(f"The job's process was terminated by {number.name}")


def test_job_without_output_folder_fails(machine: Machine) -> None:
    (machine.base / "ml" / "output").write_text("a file where a folder should be")
    assert machine.run("def main(): pass") != 0


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signals_reach_job_as_sigterm(machine: Machine, signal_number: signal.Signals) -> None:
    code = "def main():\n    signal.signal(signal.SIGTERM, lambda *_: heard.append(1)); heard = []\n"
    code += "    pathlib.Path('ready').touch()\n    while not heard: time.sleep(0.01)\n"
    with machine.start(code) as process:
        eventually((machine.base / "ready").exists)
        process.send_signal(signal_number)
        assert process.wait(20) == 0
    assert (machine.base / "ml" / "output" / "success").exists()


def test_unhandled_stop_is_reported(machine: Machine) -> None:
    with machine.start("def main():\n    pathlib.Path('ready').touch()\n    time.sleep(60)") as process:
        eventually((machine.base / "ready").exists)
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert "SIGTERM" in machine.failure


def test_stop_during_startup_is_not_lost(machine: Machine) -> None:
    """At any moment: the process ends cleanly by itself within seconds."""
    for milliseconds in (0.1, 5, 20, 60, 150, 400):
        with machine.start(
            "def main():\n    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n    time.sleep(60)"
        ) as process:
            eventually(lambda: _blocks_sigterm(process.pid))
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(milliseconds / 1000)
            process.terminate()
            assert process.wait(20) == 0
            assert not (machine.base / "ml" / "output" / "failure").exists()


def _blocks_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(blocked.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_job_has_no_blocked_signals(machine: Machine) -> None:
    code = "def main():\n    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
    code += "    assert os.getsid(0) == os.getpid()"
    assert machine.run(code) == 0


@pytest.mark.skipif(
    not MADVISE.exists() or "[madvise]" not in MADVISE.read_text("utf-8"),
    reason="the kernel does not provide huge pages on request",
)
@pytest.mark.parametrize(("tunables", "expected"), [(None, (True, None)), (NO_HUGE_PAGES, (False, NO_HUGE_PAGES))])
def test_huge_pages_apply_to_job_but_not_to_child_processes(
    machine: Machine, tunables: str | None, expected: tuple[bool, str | None]
) -> None:
    if tunables is not None:
        machine.environment["GLIBC_TUNABLES"] = tunables
    code = "def main():\n    held = [bytearray(2**16) for _ in range(256)]\n"
    code += "    lines = pathlib.Path('/proc/self/smaps').read_text().splitlines()\n"
    code += "    heap = next(number for number, line in enumerate(lines) if line.endswith('[heap]'))\n"
    code += "    flags = next(line for line in lines[heap:] if line.startswith('VmFlags')).split()\n"
    code += f"    assert ('hg' in flags, os.environ.get('GLIBC_TUNABLES')) == {expected!r}, flags"
    assert machine.run(code) == 0


@pytest.mark.parametrize(
    ("status", "has_success_file", "succeeds"),
    [
        (ExitStatus(0, 0, stopped=False), True, True),
        (ExitStatus(0, 0, stopped=True), False, True),
        (ExitStatus(143, signal.SIGTERM, stopped=True), True, True),
        (ExitStatus(0, 0, stopped=False), False, False),
        (ExitStatus(143, signal.SIGTERM, stopped=True), False, False),
        (ExitStatus(143, signal.SIGTERM, stopped=False), True, False),
        (ExitStatus(137, signal.SIGKILL, stopped=True), True, False),
        (ExitStatus(2, 0, stopped=False), False, False),
    ],
)
def test_success_requires_success_file_or_stop(status: ExitStatus, has_success_file: bool, succeeds: bool) -> None:
    assert (failure_from_status(status, has_success_file=has_success_file) is None) == succeeds
