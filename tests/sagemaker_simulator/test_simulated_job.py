"""A single start of a job: exit codes, failure reasons, artifacts, signals, and lost machines."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import (
    Interruption,
    Moment,
    RequestError,
    StopRequest,
    TrainingRequest,
    run_job,
    toolkit_command,
)
from tests.support.simulated_jobs import eventually, python_job

STEPS = "for step in range(2000): print('step', step); time.sleep(0.005)\n"
AT_STEP_5 = Moment(0.0, r"^step", occurrence=5)
# A handler that prints may interrupt a print, and Python refuses reentrant calls.
EXIT_ON_SIGTERM = "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'asked to stop\\n'), sys.exit(0)))\n"
IGNORE_SIGTERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def members(archive: Path | None) -> list[str]:
    assert archive is not None
    with tarfile.open(archive) as tar:
        return sorted(tar.getnames())


def is_alive(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return False


def test_completed_job(tmp_path: Path) -> None:
    code = "(base/'model'/'sub').mkdir(); (base/'model'/'sub'/'w').write_text('1'); (base/'output'/'data'/'r').touch()"
    result = run_job(python_job(code, tmp_path), tmp_path / "ml")
    assert (result.status, result.exit_code, result.failure_reason) == ("Completed", 0, None)
    assert members(result.model) == ["sub", "sub/w"]
    assert members(result.output) == ["r"]
    assert result.seconds > 0.0
    assert result.seconds_after_sigterm is None


def test_status_follows_exit_code(tmp_path: Path) -> None:
    result = run_job(python_job("(base/'output'/'failure').write_text('said so')", tmp_path), tmp_path / "ml")
    assert (result.status, result.failure_reason, result.failure) == ("Completed", None, "said so")


def test_failure_reason_is_start_of_failure_file(tmp_path: Path) -> None:
    code = "(base/'output'/'failure').write_text('x' * 1023 + 'yz'); (base/'model'/'w').touch(); sys.exit(3)"
    result = run_job(python_job(code, tmp_path), tmp_path / "ml")
    assert (result.status, result.exit_code) == ("Failed", 3)
    assert result.failure_reason == "x" * 1023 + "y"
    assert result.failure == "x" * 1023 + "yz"
    assert members(result.model) == ["w"]


def test_failure_without_failure_file(tmp_path: Path) -> None:
    result = run_job(python_job("os.kill(os.getpid(), signal.SIGSEGV)", tmp_path), tmp_path / "ml")
    assert (result.status, result.exit_code) == ("Failed", 139)
    assert result.failure_reason is not None
    assert "139" in result.failure_reason


def test_log_is_written_and_echoed(tmp_path: Path) -> None:
    echo = io.StringIO()
    code = "print('out'); sys.stderr.write('err\\n'); sys.stdout.buffer.write(b'\\xff'); sys.exit()"
    result = run_job(replace(python_job(code, tmp_path), echo=echo), tmp_path / "ml")
    assert sorted(result.log_text().split()) == ["err", "out", "\N{REPLACEMENT CHARACTER}"]
    assert sorted(echo.getvalue().split()) == sorted(result.log_text().split())


def test_stopped_job_can_save_model(tmp_path: Path) -> None:
    save = "signal.signal(signal.SIGTERM, lambda *_: ((base/'model'/'so far').touch(), sys.exit(0)))\n"
    result = run_job(python_job(save + STEPS, tmp_path), tmp_path / "ml", Interruption(AT_STEP_5, "stop"))
    assert (result.status, result.exit_code, result.failure_reason) == ("Stopped", 0, None)
    assert members(result.model) == ["so far"]
    assert result.seconds_after_sigterm is not None
    assert result.interruption == Interruption(AT_STEP_5, "stop")


def test_job_ignoring_sigterm_is_killed_after_grace_time(tmp_path: Path) -> None:
    interruption = Interruption(AT_STEP_5, "stop", grace_seconds=0.2)
    result = run_job(python_job(IGNORE_SIGTERM + STEPS, tmp_path), tmp_path / "ml", interruption)
    assert (result.status, result.exit_code) == ("Stopped", 137)
    assert result.seconds_after_sigterm is not None
    assert result.seconds_after_sigterm >= 0.2


def test_reclaimed_machine_uploads_no_artifacts(tmp_path: Path) -> None:
    result = run_job(python_job(EXIT_ON_SIGTERM + STEPS, tmp_path), tmp_path / "ml", Interruption(AT_STEP_5, "reclaim"))
    assert (result.status, result.exit_code) == ("Interrupted", 0)
    assert (result.model, result.output) == (None, None)
    assert "asked to stop" in result.log_text()


def test_reclaim_twice_sends_two_sigterms(tmp_path: Path) -> None:
    """The second comes after the first is handled, because two pending signals are merged on a busy machine."""
    code = "heard = []\ndef hear(*_):\n    heard.append(os.write(1, b'SIGTERM'))\n    if heard[1:]: os._exit(5)\n"
    code += "signal.signal(signal.SIGTERM, hear)\n" + STEPS
    interruption = Interruption(AT_STEP_5, "reclaim_twice", repeat_seconds=0.5)
    result = run_job(python_job(code, tmp_path), tmp_path / "ml", interruption)
    assert result.log_text().count("SIGTERM") == 2
    assert (result.status, result.exit_code) == ("Interrupted", 5)
    assert result.seconds_after_sigterm is not None
    assert result.seconds_after_sigterm >= 0.5


def test_only_first_process_receives_sigterm(tmp_path: Path) -> None:
    listen = "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'child heard'))"
    child = f"import os, signal, time; {listen}; os.write(1, b'child listens\\n'); time.sleep(30)"
    code = EXIT_ON_SIGTERM + f"import subprocess; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    result = run_job(python_job(code, tmp_path), tmp_path / "ml", Interruption(Moment(0.0, "^child listens"), "stop"))
    assert "asked to stop" in result.log_text()
    assert "child heard" not in result.log_text()


def test_kill_sends_no_sigterm(tmp_path: Path) -> None:
    result = run_job(python_job(EXIT_ON_SIGTERM + STEPS, tmp_path), tmp_path / "ml", Interruption(AT_STEP_5))
    assert (result.status, result.exit_code, result.seconds_after_sigterm) == ("Interrupted", 137, None)
    assert "asked to stop" not in result.log_text()
    assert 5 <= result.log_text().count("step") < 1000


@pytest.mark.parametrize("parent_ends", [False, True])
def test_all_processes_end_with_machine(tmp_path: Path, parent_ends: bool) -> None:
    code = "import subprocess; child = subprocess.Popen(['sleep', '60'], start_new_session=True); print(child.pid)\n"
    job = python_job(code if parent_ends else code + "print('ready'); time.sleep(60)", tmp_path)
    result = run_job(job, tmp_path / "ml", Interruption(Moment(0.0, "ready")))
    assert result.status == ("Completed" if parent_ends else "Interrupted")
    assert not is_alive(int(result.log_text().split()[0]))


def test_late_interruption_has_no_effect(tmp_path: Path) -> None:
    result = run_job(python_job("print('step')", tmp_path), tmp_path / "ml", Interruption(AT_STEP_5))
    assert (result.status, result.interruption) == ("Completed", None)


def test_moment_without_pattern_counts_from_start(tmp_path: Path) -> None:
    result = run_job(python_job("time.sleep(60)", tmp_path), tmp_path / "ml", Interruption(Moment(0.25)))
    assert result.status == "Interrupted"
    assert 0.25 <= result.seconds < 60.0


def test_stop_request_stops_job(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.submit()
    result = run_job(python_job("time.sleep(60)", tmp_path), tmp_path / "ml", stop=stop)
    assert (result.status, result.exit_code) == ("Stopped", 143)


def test_last_checkpoint_is_uploaded_after_normal_end(tmp_path: Path) -> None:
    job = python_job("(base/'checkpoints'/'last').write_text('42')", tmp_path)
    job = replace(job, sync=replace(job.sync, delay_seconds=(60.0, 60.0)))
    run_job(job, tmp_path / "ml")
    assert (job.storage.checkpoints / "last").read_text() == "42"


def test_missing_program_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_job(replace(python_job("", tmp_path), command=("no-such-program",)), tmp_path / "ml")
    with pytest.raises(RequestError, match="not empty"):
        run_job(python_job("", tmp_path), tmp_path / "ml")


def test_toolkit_runs_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "import os, pathlib\ndef main(): pathlib.Path(os.environ['SAGEMAKER_BASE_DIR'], 'model', 'w').touch()\n"
    (tmp_path / "tiny_training.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    request = TrainingRequest(environment={"SAGEMAKER_TRAINING_MODULE": "tiny_training:main"})
    result = run_job(replace(python_job("", tmp_path), request=request, command=toolkit_command()), tmp_path / "ml")
    assert (result.status, result.has_success_file) == ("Completed", True), result.log_text()
    assert members(result.model) == ["w"]


def test_exception_in_caller_ends_all_processes(tmp_path: Path) -> None:
    class Impatient(StopRequest):
        @property
        def submitted(self) -> bool:
            eventually(lambda: job.storage.root.joinpath("logs", "000.log").read_text().endswith("\n"))
            raise KeyboardInterrupt

    job = python_job("print(os.getpid()); time.sleep(60)", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, tmp_path / "ml", stop=Impatient())
    assert not is_alive(int(job.storage.root.joinpath("logs", "000.log").read_text()))
