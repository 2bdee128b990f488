"""Requests per second of the server, compared with the artifact's handler called by threads of one process."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import http_load
from benchmarks.http_load import Load
from benchmarks.image_task import write_images
from benchmarks.machine import keep_to_cores
from benchmarks.sides import ROOT
from benchmarks.table import begin, row, say
from benchmarks.text_files import read_texts, write_texts
from finetune.config.hyperparameters import ModelSpec
from finetune.data.labels import LabelMap
from finetune.export.export import ArtifactContents, export
from finetune.export.handler import load_handler
from finetune.models.load import load_backbone
from finetune.models.request import ModelRequest
from finetune.tasks.create import create_task

CLIENTS = (1, 8, 64)
_PORT = 8099
_START_SECONDS = 120.0
_RECORDS = 200


@dataclass(frozen=True, slots=True)
class Served:
    """A model to serve, and bodies of requests for it.

    Attributes:
        root: folder in place of `/opt/ml`.
    """

    name: str
    root: Path
    bodies: Sequence[bytes]
    content_type: str


def main(*, quick: bool) -> None:
    """Print a row per model and number of clients."""
    keep_to_cores()
    rounds, seconds = (1, 0.5) if quick else (3, 5.0)
    columns = ("model, clients", "handler, requests/s", "server, requests/s", "server / handler")
    begin("Serving", (*columns, "p50, ms: handler, server", "p99, ms: handler, server", "CPU, ms per request"))
    with tempfile.TemporaryDirectory(prefix="benchmark-serving-") as folder:
        for served in (_images(Path(folder) / "images"), _texts(Path(folder) / "texts")):
            with _server(served) as process:
                for clients in CLIENTS[:2] if quick else CLIENTS:
                    pairs = [_measure(served, process, clients, seconds) for _ in range(rounds)]
                    row((f"{served.name}, {clients}", *_cells(pairs)))
    say(
        f"\nMedians of {rounds} rounds of {seconds:.1f} s per side, alternating; the load generator shares the cores"
        " with the server. Requests of one record: JPEG images of about 40 kB, texts of up to 128 tokens."
    )


def _cells(pairs: Sequence[tuple[Load, Load]]) -> tuple[str, ...]:
    handler, server = ([pair[side] for pair in pairs] for side in (0, 1))
    rates = [statistics.median(load.rate for load in side) for side in (handler, server)]
    percentiles = [
        ", ".join(f"{statistics.median(load.percentile(percent) for load in side):.0f}" for side in (handler, server))
        for percent in (50, 99)
    ]
    cpu = ", ".join(f"{statistics.median(load.cpu for load in side):.1f}" for side in (handler, server))
    return (*(f"{rate:.1f}" for rate in rates), f"{rates[1] / rates[0]:.2f} x", *percentiles, cpu)


def _measure(served: Served, process: int, clients: int, seconds: float) -> tuple[Load, Load]:
    handler = _call_handler(served, clients, seconds)
    before = _cpu_seconds(process)
    server = asyncio.run(http_load.send(_PORT, served.bodies, served.content_type, clients, seconds))
    return handler, replace(server, cpu_seconds=_cpu_seconds(process) - before)


def _cpu_seconds(process: int) -> float:
    """Processor time of a process and all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _call_handler(served: Served, clients: int, seconds: float) -> Load:
    """Call the handler from as many threads as there are clients."""
    handler = load_handler(served.root / "model")
    model = handler.model_fn(str(served.root / "model"))
    numbers, latencies = itertools.count(), list[float]()

    def answer() -> None:
        body = served.bodies[next(numbers) % len(served.bodies)]
        handler.output_fn(handler.predict_fn(handler.input_fn(body, served.content_type), model), "application/json")

    answer()
    began, cpu = time.monotonic(), time.process_time()

    def client() -> None:
        while (sent := time.monotonic()) < began + seconds:
            answer()
            latencies.append(time.monotonic() - sent)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(time.monotonic() - began, latencies, time.process_time() - cpu)


@contextmanager
def _server(served: Served) -> Iterator[int]:
    """Run the server and return its process."""
    variables = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
        "SAGEMAKER_BASE_DIR": str(served.root),
        "SAGEMAKER_BIND_TO_PORT": str(_PORT),
    }
    with subprocess.Popen((sys.executable, "-P", "-m", "container.serve"), env=variables, stdout=-3) as server:
        try:
            _wait_until_ready()
            yield server.pid
        finally:
            server.send_signal(signal.SIGTERM)


def _wait_until_ready() -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/ping"):
                return
        except urllib.error.URLError:
            time.sleep(0.05)
    raise TimeoutError("the server is not ready")


def _images(folder: Path) -> Served:
    files = sorted(write_images(folder, _RECORDS).train.rglob("*.jpg"))
    spec = ModelSpec(name="resnet18")
    request = ModelRequest(
        spec, "image-classification", ("a", "b", "c", "d"), "single_label_classification",
        pretrained=False, image_size=224, max_length=None, seed=1, model_channel=None, baked_weights=None,
        scratch=folder / "scratch",
    )  # fmt: skip
    _export(request, folder / "root")
    return Served("resnet18", folder / "root", [path.read_bytes() for path in files], "image/jpeg")


def _texts(folder: Path) -> Served:
    task = write_texts(folder, _RECORDS)
    labels, texts = read_texts(task.train)
    request = ModelRequest(
        ModelSpec(), "text-classification", tuple(sorted(set(labels))), "single_label_classification",
        pretrained=True, image_size=None, max_length=128, seed=1, model_channel=task.model, baked_weights=None,
        scratch=folder / "scratch",
    )  # fmt: skip
    _export(request, folder / "root")
    return Served("MiniLM", folder / "root", [text.encode() for text in texts], "text/plain")


def _export(request: ModelRequest, root: Path) -> None:
    outputs = create_task(LabelMap(request.labels, multi_label=False)).artifact_fields()
    export(root / "model", load_backbone(request), ArtifactContents(request.task, outputs, {}))
