"""`scripts/setup` reports missing prerequisites, and returns at once if there is nothing to do."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "cat", "cut", "dirname", "sha256sum", "uname")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the files that the script reads, and an almost empty machine in `bin`."""
    for name in ("scripts/setup", "scripts/uv.txt", "requirements-dev.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        program = shutil.which(tool)
        assert program is not None
        (tmp_path / "bin" / tool).symlink_to(program)
    return tmp_path


def setup(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [project / "bin" / "bash", project / "scripts" / "setup"],
        env={"PATH": str(project / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )


def add_program(project: Path, name: str, script: str) -> None:
    program = project / "bin" / name
    program.write_text(f"#!{project / 'bin' / 'bash'}\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


def test_missing_python_is_reported(project: Path) -> None:
    completed = setup(project)
    assert completed.returncode == 1
    assert "Python 3.11 was not found" in completed.stderr


def test_other_python_version_is_not_used(project: Path) -> None:
    add_program(project, "python3", "exit 1")
    assert "Python 3.11 was not found" in setup(project).stderr


def test_uv_fetches_a_missing_python(project: Path) -> None:
    answer = f'[[ $* == "python find 3.11" ]] && echo "{project}/bin/fetched" || echo "$*" >>"{project}/calls"'
    add_program(project, "uv", answer)
    add_program(project, "fetched", f'exec "{sys.executable}" "$@"')
    completed = setup(project)
    assert (project / "calls").read_text(encoding="utf-8") == "python install --quiet 3.11\n"
    assert "uv fetches one into its own folder" in completed.stderr
    assert f"setup: using {project}/bin/fetched\n" in completed.stderr
    assert "C compiler" in completed.stderr


def test_other_machines_are_refused(project: Path) -> None:
    (project / "bin" / "uname").unlink()
    add_program(project, "uname", "echo Darwin arm64")
    assert "to use finetune: pip install ." in setup(project).stderr


def test_missing_compiler_is_reported(project: Path) -> None:
    add_program(project, "python3.11", f'exec "{sys.executable}" "$@"')
    completed = setup(project)
    assert completed.returncode == 1
    assert "C compiler" in completed.stderr
    assert not (project / ".venv").exists()


def test_unchanged_locks_skip_setup(project: Path) -> None:
    locks = [(project / name).read_bytes() for name in ("requirements-dev.txt", "scripts/uv.txt")]
    stamp = hashlib.sha256(b"".join([f"{project}\n".encode(), *locks])).hexdigest()
    (project / ".venv").mkdir()
    (project / ".venv" / "finetune.stamp").write_text(f"{stamp}\n", encoding="utf-8")
    completed = setup(project)
    assert (completed.returncode, completed.stderr) == (0, "")


def test_changed_lock_triggers_setup(project: Path) -> None:
    test_unchanged_locks_skip_setup(project)
    with (project / "requirements-dev.txt").open("a", encoding="utf-8") as lock:
        lock.write("another==1.0\n")
    assert setup(project).returncode == 1
