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


def order(image: str, pictures: Path, output: Path, *options: str) -> list[str]:
    words = [str(RUN_LOCAL), "--image", image, "--channel", f"train={pictures}", "--output", str(output)]
    return [*words, *(word for one in SCRATCH for word in ("-p", one)), *options]


def test_a_job_that_is_killed_and_started_again(image: str, pictures: Path, tmp_path: Path) -> None:
    """The kill comes earlier after one that was too late: machines differ in how soon they are done."""
    name = f"killed-{tmp_path.name.replace('_', '-')}"
    for seconds in ("4", "3", "2", "1"):
        output = tmp_path / f"killed-at-{seconds}"
        words = order(image, pictures, output, "--job-name", name, "--interrupt-at", seconds, "-e", "OMP_NUM_THREADS=1")
        run = subprocess.run(words, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        if "start 0      Interrupted" in run.stdout:
            break
    assert "start 1      Completed" in run.stdout
    with tarfile.open(output / "s3" / "output" / "model.tar.gz") as archive:
        assert "model.safetensors" in archive.getnames()
    assert docker("ps", "--all", "--quiet", "--filter", f"name={name}") == ""


def test_interrupt_stops_the_container_in_order(image: str, pictures: Path, tmp_path: Path) -> None:
    log = tmp_path / "out" / "s3" / "logs" / "000.log"
    words = order(image, pictures, tmp_path / "out", "-p", "seed=1", "--quiet")
    words[words.index("epochs=2")] = "epochs=1000"
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as run:
        eventually(log.exists)
        eventually(lambda: "epoch=1;" in log.read_text() or run.poll() is not None)
        assert run.poll() is None, log.read_text()
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=120)
    assert "Stopped" in out
    assert "Stopped on request" in log.read_text()
    assert run.returncode == 0
