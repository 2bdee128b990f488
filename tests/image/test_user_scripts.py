"""User scripts run in the image with the expected environment and receive the signal of `docker stop`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from sagemaker_simulator import Resources, TrainingRequest, lay_out
from tests.image.containers import ML, UNPRIVILEGED, Container, ContainerRunner, RunOptions

ORPHANS = """
import os, time
reading, writing = os.pipe()
for _ in range(5):
    if os.fork() == 0:
        if os.fork():
            os._exit(0)
        os.write(writing, b'%d ' % os.getpid())
        time.sleep(0.2)
        os._exit(0)
    os.wait()
os.close(writing)
orphans = b''.join(iter(lambda: os.read(reading, 100), b'')).split()
def left():
    return sum(os.path.exists(b'/proc/' + number) for number in orphans)
deadline = time.monotonic() + 60
while left() and time.monotonic() < deadline:
    time.sleep(0.01)
print('ORPHANS', len(orphans), 'LEFT', left())
"""
SAVE_ON_SIGTERM = """
import os, pathlib, signal, sys, time
def save(*_):
    pathlib.Path(os.environ['SM_MODEL_DIR'], 'saved').touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print('ready', flush=True)
time.sleep(300)
"""


def start(
    runner: ContainerRunner,
    root: Path,
    files: Mapping[str, str],
    hyperparameters: Mapping[str, str],
    run_options: RunOptions,
) -> Container:
    (root / "code").mkdir()
    for name, text in files.items():
        (root / "code" / name).write_text(text, encoding="utf-8")
    # As SDK 3 does, with a network interface that does not exist.
    resources = Resources(network_interface="ethwe")
    request = TrainingRequest(hyperparameters=hyperparameters, resources=resources, checkpoint_path=None)
    folder = lay_out(root / "ml", request, Path(ML))
    (root / "code").rename(folder.root / "code")
    return runner.start_in(folder, run_options)


def write_wheel(folder: Path) -> str:
    """Write a package without dependencies; return its file name."""
    folder.mkdir(parents=True, exist_ok=True)
    name, info = "needed-1.0-py3-none-any.whl", "needed-1.0.dist-info"
    files = {
        "needed.py": "VALUE = 'installed'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: needed\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return name


def test_script_receives_requirements_arguments_and_variables(runner: ContainerRunner, tmp_path: Path) -> None:
    """As any user on a read-only root, where pip cannot write into the image."""
    note = "two words; touch /opt/ml/model/ran $(touch /opt/ml/model/ran)"
    expression = "[needed.VALUE, os.environ['SM_HP_NOTE'], sys.argv[1:]]"
    text = f"import json, needed, os, sys; print('SEEN', json.dumps({expression}))"
    wheel = write_wheel(tmp_path / "wheel")
    volume = ("--volume", f"{tmp_path / 'wheel'}:/wheels:ro")
    run_options = RunOptions(UNPRIVILEGED.user, (*UNPRIVILEGED.options, *volume))
    files = {"user.py": text, "requirements.txt": f"/wheels/{wheel}\n"}
    container = start(runner, tmp_path, files, {"sagemaker_program": "user.py", "note": note}, run_options)
    assert container.wait() == 0, container.log()
    assert f"SEEN {json.dumps(['installed', note, ['--note', note]])}" in container.log()
    assert not list(container.folder.model.iterdir())


def test_docker_stop_reaches_script_started_by_shell(runner: ContainerRunner, tmp_path: Path) -> None:
    files = {"user.py": SAVE_ON_SIGTERM, "user.sh": "#!/bin/sh\npython user.py\nexit $?\n"}
    container = start(runner, tmp_path, files, {"sagemaker_program": "user.sh"}, UNPRIVILEGED)
    container.wait_for("ready")
    container.stop()
    assert (container.folder.model / "saved").exists(), container.log()
    assert container.wait() == 143
    assert container.seconds_to_stop < 30


def test_docker_stop_reaches_all_torchrun_processes(runner: ContainerRunner, tmp_path: Path) -> None:
    text = SAVE_ON_SIGTERM.replace("'saved'", "'saved-' + os.environ['RANK']")
    hyperparameters = {"sagemaker_program": "user.py", "sagemaker_torch_distributed_enabled": "true"}
    container = start(runner, tmp_path, {"user.py": text}, hyperparameters, UNPRIVILEGED)
    container.wait_for("ready")
    container.stop()
    assert (container.folder.model / "saved-0").exists(), container.log()
    assert container.wait() != 0


def test_failing_script_fails_job(runner: ContainerRunner, tmp_path: Path) -> None:
    container = start(
        runner, tmp_path, {"user.py": "raise OSError('x')"}, {"sagemaker_program": "user.py"}, RunOptions()
    )
    assert container.wait() == 1, container.log()
    assert container.failure.startswith("The script ended with exit code 1")


def test_orphaned_processes_are_reaped(runner: ContainerRunner, tmp_path: Path) -> None:
    container = start(runner, tmp_path, {"user.py": ORPHANS}, {"sagemaker_program": "user.py"}, UNPRIVILEGED)
    assert container.wait() == 0, container.log()
    assert "ORPHANS 5 LEFT 0" in container.log()
