"""User scripts run in the image with the expected environment and receive the signal of `docker stop`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from sagemaker_simulator import Resources, TrainingRequest, lay_out
from tests.image.containers import AS_NOBODY, ML, Container, Harbour, Manner

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
LISTEN = """
import os, pathlib, signal, sys, time
def save(*_):
    pathlib.Path(os.environ['SM_MODEL_DIR'], 'saved').touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print('ready', flush=True)
time.sleep(300)
"""


def start(
    harbour: Harbour, place: Path, files: Mapping[str, str], hyperparameters: Mapping[str, str], manner: Manner
) -> Container:
    (place / "code").mkdir()
    for name, text in files.items():
        (place / "code" / name).write_text(text, encoding="utf-8")
    # As SDK 3 does, with a network interface that does not exist.
    resources = Resources(network_interface="ethwe")
    request = TrainingRequest(hyperparameters=hyperparameters, resources=resources, checkpoint_path=None)
    folder = lay_out(place / "ml", request, Path(ML))
    (place / "code").rename(folder.root / "code")
    return harbour.start_in(folder, manner)


def wheel(folder: Path) -> str:
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


def test_a_script_with_requirements_arguments_and_variables(harbour: Harbour, tmp_path: Path) -> None:
    """As any user on a read-only root, where pip cannot write into the image."""
    hostile = "two words; touch /opt/ml/model/ran $(touch /opt/ml/model/ran)"
    seen = "[needed.VALUE, os.environ['SM_HP_NOTE'], sys.argv[1:]]"
    text = f"import json, needed, os, sys; print('SEEN', json.dumps({seen}))"
    built = wheel(tmp_path / "wheel")
    volume = ("--volume", f"{tmp_path / 'wheel'}:/wheels:ro")
    manner = Manner(AS_NOBODY.user, (*AS_NOBODY.options, *volume))
    files = {"user.py": text, "requirements.txt": f"/wheels/{built}\n"}
    container = start(harbour, tmp_path, files, {"sagemaker_program": "user.py", "note": hostile}, manner)
    assert container.wait() == 0, container.log()
    assert f"SEEN {json.dumps(['installed', hostile, ['--note', hostile]])}" in container.log()
    assert not list(container.folder.model.iterdir())


def test_docker_stop_reaches_a_script_behind_a_shell(harbour: Harbour, tmp_path: Path) -> None:
    files = {"user.py": LISTEN, "user.sh": "#!/bin/sh\npython user.py\nexit $?\n"}
    container = start(harbour, tmp_path, files, {"sagemaker_program": "user.sh"}, AS_NOBODY)
    container.wait_for("ready")
    container.stop()
    assert (container.folder.model / "saved").exists(), container.log()
    assert container.wait() == 143
    assert container.seconds_to_stop < 30


def test_docker_stop_reaches_every_process_of_torchrun(harbour: Harbour, tmp_path: Path) -> None:
    text = LISTEN.replace("'saved'", "'saved-' + os.environ['RANK']")
    hyperparameters = {"sagemaker_program": "user.py", "sagemaker_torch_distributed_enabled": "true"}
    container = start(harbour, tmp_path, {"user.py": text}, hyperparameters, AS_NOBODY)
    container.wait_for("ready")
    container.stop()
    assert (container.folder.model / "saved-0").exists(), container.log()
    assert container.wait() != 0


def test_a_failing_script_fails_the_job(harbour: Harbour, tmp_path: Path) -> None:
    container = start(harbour, tmp_path, {"user.py": "raise OSError('x')"}, {"sagemaker_program": "user.py"}, Manner())
    assert container.wait() == 1, container.log()
    assert container.failure.startswith("The script ended with exit code 1")


def test_what_orphans_leave_behind_is_reaped(harbour: Harbour, tmp_path: Path) -> None:
    container = start(harbour, tmp_path, {"user.py": ORPHANS}, {"sagemaker_program": "user.py"}, AS_NOBODY)
    assert container.wait() == 0, container.log()
    assert "ORPHANS 5 LEFT 0" in container.log()
