"""`scripts/run-local --image` runs a job in a container, stops it, kills it and starts it again."""

from __future__ import annotations

import signal
import subprocess
import tarfile
from pathlib import Path

from tests.image.containers import docker
from tests.support.simulated_jobs import eventually

RUN_LOCAL = Path(__file__).resolve().parents[2] / "scripts" / "run-local"
SCRATCH = ("strategy=from_scratch", "model_name=resnet18", "image_size=32", "epochs=2", "batch_size=8")


def command_line(image: str, train_images: Path, output: Path, *options: str) -> list[str]:
    command = [str(RUN_LOCAL), "--image", image, "--channel", f"train={train_images}", "--output", str(output)]
    return [*command, *(word for setting in SCRATCH for word in ("-p", setting)), *options]


def test_killed_job_is_restarted(image: str, train_images: Path, tmp_path: Path) -> None:
    """The kill comes earlier after one that was too late: machines differ in how soon they are done."""
    name = f"killed-{tmp_path.name.replace('_', '-')}"
    for seconds in ("4", "3", "2", "1"):
        output = tmp_path / f"killed-at-{seconds}"
        command = command_line(
            image, train_images, output, "--job-name", name, "--interrupt-at", seconds, "-e", "OMP_NUM_THREADS=1"
        )
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        if "start 0      Interrupted" in run.stdout:
            break
    assert "start 1      Completed" in run.stdout
    with tarfile.open(output / "s3" / "output" / "model.tar.gz") as archive:
        assert "model.safetensors" in archive.getnames()
    assert docker("ps", "--all", "--quiet", "--filter", f"name={name}") == ""


def test_interrupt_stops_container(image: str, train_images: Path, tmp_path: Path) -> None:
    log = tmp_path / "out" / "s3" / "logs" / "000.log"
    command = command_line(image, train_images, tmp_path / "out", "-p", "seed=1", "--quiet")
    command[command.index("epochs=2")] = "epochs=1000"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        eventually(log.exists)
        eventually(lambda: "epoch=1;" in log.read_text() or run.poll() is not None)
        assert run.poll() is None, log.read_text()
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=120)
    assert "Stopped" in out
    assert "Stopped on request" in log.read_text()
    assert run.returncode == 0
