"""User scripts get the expected environment, receive SIGTERM, and no shell interprets their arguments."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from container.user_script import wait_for_hosts
from finetune.errors import PlatformError
from tests.support.simulated_jobs import eventually

ROOT = Path(__file__).resolve().parents[2]
PRINT_ARGUMENTS = "import json, sys; open('arguments', 'w').write(json.dumps(sys.argv[1:]))"
HOSTILE = """two words; touch /tmp/x $(touch y) `touch z` "quoted" 'single' \\"""


def start(root: Path, files: Mapping[str, str], hyperparameters: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start `train` with these files in the code folder."""
    for folder in ("input/config", "code"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / "code" / name).write_text(text, encoding="utf-8")
    (root / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters), encoding="utf-8")
    resources = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "ethwe"}
    (root / "input" / "config" / "resourceconfig.json").write_text(json.dumps(resources), encoding="utf-8")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
        "SAGEMAKER_BASE_DIR": str(root),
        "AWS_DEFAULT_REGION": "us-east-1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "container.train"],
        env=variables,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(base: Path, files: Mapping[str, str], hyperparameters: Mapping[str, str]) -> tuple[int, str]:
    with start(base, files, hyperparameters) as process:
        log, _ = process.communicate(timeout=120)
    return process.returncode, log


def failure(base: Path) -> str:
    return (base / "output" / "failure").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name, text",
    [
        ("user.py", PRINT_ARGUMENTS),
        ("user.sh", f'#!/bin/bash\nexec {sys.executable} -c "{PRINT_ARGUMENTS}" "$@"'),
        ("bare.sh", f'exec {sys.executable} -c "{PRINT_ARGUMENTS}" "$@"'),
    ],
)
def test_arguments_are_passed_unchanged(tmp_path: Path, name: str, text: str) -> None:
    hyperparameters = {"sagemaker_program": name, "note": HOSTILE, "zz": '"quoted"', "epochs": "3"}
    code, log = run(tmp_path, {name: text}, hyperparameters)
    assert code == 0, log
    arguments = json.loads((tmp_path / "code" / "arguments").read_text(encoding="utf-8"))
    assert arguments == ["--epochs", "3", "--note", HOSTILE, "--zz", "quoted"]
    assert sorted(path.name for path in (tmp_path / "code").iterdir()) == sorted([name, "arguments"])


def test_script_receives_environment_variables(tmp_path: Path) -> None:
    (tmp_path / "input" / "data" / "train").mkdir(parents=True)
    names = ["SM_CHANNEL_TRAIN", "SM_MODEL_DIR", "SM_HP_EPOCHS", "SM_CURRENT_HOST", "SM_USER_ENTRY_POINT"]
    text = f"import os, helper; print('SEEN', [os.environ[name] for name in {names}], helper.VALUE)"
    files = {"user.py": text, "helper.py": "VALUE = 'from beside it'"}
    code, log = run(tmp_path, files, {"sagemaker_program": "user.py", "epochs": "3"})
    assert code == 0, log
    seen = [f"{tmp_path}/input/data/train", f"{tmp_path}/model", "3", "algo-1", "user.py"]
    assert f"SEEN {seen} from beside it" in log


@pytest.mark.parametrize(
    "text, code, prefix",
    [
        ("import sys; sys.exit(7)", 1, "The script ended with exit code 7"),
        ("raise OSError('no errno')", 1, "The script ended with exit code 1"),
        ("import argparse; argparse.ArgumentParser().parse_args()", 1, "The script ended with exit code 2"),
        ("import os; os.kill(os.getpid(), 9)", 137, "The script was terminated by SIGKILL"),
        ("import os; os.kill(os.getpid(), 11)", 139, "The script was terminated by SIGSEGV"),
    ],
)
def test_failing_script_fails_job(tmp_path: Path, text: str, code: int, prefix: str) -> None:
    exit_code, log = run(tmp_path, {"user.py": text}, {"sagemaker_program": "user.py", "epochs": "3"})
    assert exit_code == code, log
    assert failure(tmp_path).startswith(prefix)


@pytest.mark.parametrize(
    "hyperparameters, prefix",
    [
        ({"sagemaker_program": "other.py"}, "The script sagemaker_program='other.py' is missing from the code"),
        ({"sagemaker_program": "user.py", "sagemaker_mpi_enabled": "true"}, "sagemaker_mpi_enabled: MPI is not"),
    ],
)
def test_unsupported_script_is_reported(tmp_path: Path, hyperparameters: Mapping[str, str], prefix: str) -> None:
    code, log = run(tmp_path, {"user.py": "print()"}, hyperparameters)
    assert code == 1, log
    assert failure(tmp_path).startswith(prefix)


LISTEN = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path('saved').touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path('ready').touch()
time.sleep(60)
"""


@pytest.mark.parametrize("through_a_shell", [False, True])
def test_sigterm_reaches_script(tmp_path: Path, through_a_shell: bool) -> None:
    files = {"user.py": LISTEN, "user.sh": f"#!/bin/sh\n{sys.executable} user.py\n"}
    program = "user.sh" if through_a_shell else "user.py"
    with start(tmp_path, files, {"sagemaker_program": program}) as process:
        eventually(lambda: (tmp_path / "code" / "ready").exists() or process.poll() is not None)
        process.terminate()
        log, _ = process.communicate(timeout=60)
    assert (tmp_path / "code" / "saved").exists(), log
    # The shell itself is killed by SIGTERM; its child process was able to save.
    assert process.returncode == (128 + signal.SIGTERM if through_a_shell else 0), log


def test_script_without_handler_ends_by_sigterm(tmp_path: Path) -> None:
    text = "import pathlib, time; pathlib.Path('ready').touch(); time.sleep(60)"
    with start(tmp_path, {"user.py": text}, {"sagemaker_program": "user.py"}) as process:
        eventually(lambda: (tmp_path / "code" / "ready").exists() or process.poll() is not None)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert failure(tmp_path).startswith("The script was terminated by SIGTERM")


def test_torchrun_provides_process_group(tmp_path: Path) -> None:
    text = (
        "import torch.distributed as d; d.init_process_group('gloo'); print('RANK', d.get_rank(), d.get_world_size())"
    )
    hyperparameters = {"sagemaker_program": "user.py", "sagemaker_torch_distributed_enabled": "true"}
    code, log = run(tmp_path, {"user.py": f"{text}; d.destroy_process_group()"}, hyperparameters)
    assert code == 0, log
    assert "RANK 0 1" in log


def test_unresolvable_hosts_raise_after_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str) -> str:
        raise OSError("unknown")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    with pytest.raises(PlatformError, match="algo-2"):
        wait_for_hosts(["algo-2"], seconds=0.0)
