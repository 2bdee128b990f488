"""The image's server in a separate process, on a free port of the loopback interface."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0


@dataclass(frozen=True)
class RunningServer:
    """A started server."""

    process: subprocess.Popen[str]
    port: int
    log_file: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ping(self) -> int:
        """The status of the health check; 0 if nothing listens."""
        try:
            return requests.get(f"{self.url}/ping", timeout=60).status_code
        except requests.ConnectionError:
            return 0

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.ping() != 200:
            assert self.process.poll() is None, f"the server ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"the server is not ready:\n{self.log()}"
            time.sleep(0.02)

    def post(
        self,
        body: bytes,
        content_type: str,
        accept: str = "application/json",
        path: str = "/invocations",
        attributes: str | None = None,
    ) -> requests.Response:
        """The response to a request, with custom attributes in the platform's header."""
        headers = {"Content-Type": content_type, "Accept": accept}
        if attributes is not None:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = attributes
        return requests.post(f"{self.url}{path}", data=body, headers=headers, timeout=120)

    def stop(self) -> int:
        """Stop it as the platform does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def resident_bytes(self) -> int:
        """Memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def started_server(root: Path, environment: Mapping[str, str] | None = None) -> Iterator[RunningServer]:
    """Start the server on `root`, in place of `/opt/ml`; it may not be ready yet."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FINETUNE_", "SAGEMAKER_"))}
    variables = inherited | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
        "SAGEMAKER_BASE_DIR": str(root),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        **(environment or {}),
    }
    log_file = root.parent / f"server-{port}.log"
    with log_file.open("w") as log:
        command = (sys.executable, "-P", "-m", "container.serve")
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, text=True)
    try:
        yield RunningServer(process, port, log_file)
    finally:
        process.kill()
        process.wait()


@contextmanager
def ready_server(root: Path, environment: Mapping[str, str] | None = None) -> Iterator[RunningServer]:
    """Start the server and wait until it is ready."""
    with started_server(root, environment) as server:
        server.wait_until_ready()
        yield server


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
