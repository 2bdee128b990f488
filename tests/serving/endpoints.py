"""Serves an artifact with AWS's toolkit in a separate process."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("model_server.py")


@dataclass(frozen=True)
class Endpoint:
    """Address of a served model."""

    url: str

    def ping(self) -> int:
        """The status of the health check."""
        return requests.get(f"{self.url}/ping", timeout=60).status_code

    def invoke(self, body: bytes, content_type: str, accept: str = "application/json") -> requests.Response:
        """The response to one request."""
        headers = {"Content-Type": content_type, "Accept": accept}
        return requests.post(f"{self.url}/invocations", data=body, headers=headers, timeout=60)


@contextmanager
def served(model_dir: Path) -> Iterator[Endpoint]:
    """Serve an artifact while the block runs."""
    made = subprocess.run([ROOT / "scripts" / "environment", "serving"], stdout=subprocess.PIPE, text=True, check=True)
    python = f"{made.stdout.strip()}/bin/python"
    # As set by AWS's toolkit before it starts its model server, and requested by the example `deploy_aws_image`.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables = {
        **inherited,
        "PYTHONPATH": str(model_dir / "code"),
        "SAGEMAKER_PROGRAM": "inference.py",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = (python, "-P", str(SERVER), str(model_dir), sysconfig.get_path("purelib"))
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            assert port, "the server did not start"
            yield Endpoint(f"http://127.0.0.1:{port}")
        finally:
            server.kill()
