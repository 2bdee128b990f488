"""The servers of the comparison, each in processes of its own: the image's `serve`, and AWS's model server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.models import Served
from benchmarks.sides import ROOT
from benchmarks.turns import tree

START_SECONDS = 300.0
_STOP_SECONDS = 30.0
_PORTS = iter(range(18_080, 19_080))
_HANDLER_SERVICE = "sagemaker_inference.default_handler_service"
# Those of AWS's toolkit (`sagemaker_inference.model_server`), with the port of this benchmark.
_MODEL_SERVER_SETTINGS = """\
enable_envvars_config=true
decode_input_request=false
load_models=ALL
default_response_timeout=60
inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{port}
vmargs=-XX:-UseContainerSupport
default_service_handler={handler_service}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        process: its first process, whose descendants are its workers.
        port: port on the loopback interface.
        started: `time.monotonic()` when its process was started.
    """

    process: subprocess.Popen[bytes]
    port: int
    started: float

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all its processes."""
        return sum(map(_cpu_seconds, tree(self.process.pid)))

    @property
    def resident_bytes(self) -> int:
        """Memory of all its processes."""
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(
            int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * page for pid in tree(self.process.pid)
        )


def has_java() -> bool:
    """Whether this machine has Java, which AWS's model server needs."""
    return shutil.which("java") is not None


@contextmanager
def our_server(served: Served) -> Iterator[Server]:
    """Start the image's `serve`; it may not be ready yet."""
    port = _free_port()
    variables = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
        "SAGEMAKER_BASE_DIR": str(served.root),
        "SAGEMAKER_BIND_TO_PORT": str(port),
    }
    with _running((sys.executable, "-P", "-m", "container.serve"), variables, served.root, port) as server:
        yield server


@contextmanager
def aws_server(served: Served, folder: Path, *, threads: int | None = None) -> Iterator[Server]:
    """Start AWS's multi-model-server as their inference toolkit does, with one worker process per core.

    Args:
        served: the model.
        folder: new folder for configuration and logs.
        threads: threads per worker; by default as many as PyTorch chooses.
    """
    folder.mkdir()
    made = subprocess.run([ROOT / "scripts" / "environment", "serving"], stdout=subprocess.PIPE, text=True, check=True)
    environment, port, model = Path(made.stdout.strip()), _free_port(), served.root / "model"
    settings = folder / "mms.properties"
    settings.write_text(_MODEL_SERVER_SETTINGS.format(port=port, handler_service=_HANDLER_SERVICE), encoding="utf-8")
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    variables = {
        # The toolkit's own versions are found before those of the project's environment, which has torch.
        "PYTHONPATH": f"{model / 'code'}:{packages}:{sysconfig.get_path('purelib')}",
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "SAGEMAKER_PROGRAM": "inference.py",
        # Sockets of the workers have the same names in all servers.
        "TMPDIR": str(folder),
        "TEMP": str(folder),
        **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
    }
    command = (
        str(environment / "bin" / "multi-model-server"), "--start", "--foreground", "--model-store", "/",
        "--mms-config", str(settings), "--log-config", str(packages / "sagemaker_inference" / "etc" / "log4j2.xml"),
        "--models", f"model={model}",
    )  # fmt: skip
    with _running(command, variables, folder, port) as server:
        yield server


def wait_until_ready(server: Server) -> None:
    """Wait until the health check succeeds.

    Raises:
        RuntimeError: the server has ended, or the check does not succeed in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        with (
            suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/ping"),
        ):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server is not ready: {server.process.args!r}")


@contextmanager
def _running(command: Sequence[str], variables: Mapping[str, str], folder: Path, port: int) -> Iterator[Server]:
    started = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **variables}, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield Server(process, port, started)
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):  # workers in other processes
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    """A free port, a different one each time, among those that AWS's model server accepts: not ephemeral ones."""
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free")
