"""Prepares a user's own script: its command, its environment and its dependencies.

sagemaker-training does the download, `requirements.txt`, arguments and `SM_*` variables. Its way of running a script is
not used: it does not forward SIGTERM to the script, and passes hyperparameters through a shell if the script is a
shell script.
"""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from container.script_process import run_script
from finetune.entry import raise_for_toolkit
from finetune.errors import PlatformError, UserError
from finetune.sagemaker.failure import failure_of, write_failure
from finetune.sagemaker.paths import Paths

HOST_TIMEOUT_SECONDS = 900.0
_MASTER_PORT = 7777


class Job(Protocol):
    """Interface used of `sagemaker_training.environment.Environment`."""

    user_entry_point: str
    module_dir: str
    hosts: Sequence[str]
    current_host: str
    num_gpus: int
    network_interface_name: str
    additional_framework_parameters: dict[str, object]

    def to_cmd_args(self) -> list[str]:
        """The hyperparameters as `--name value`."""
        ...

    def to_env_vars(self) -> dict[str, str]:
        """The `SM_*` variables."""
        ...


def main() -> None:
    """Run the script named by the hyperparameter `sagemaker_program` or the variable `SAGEMAKER_PROGRAM`.

    Raises:
        ClientError: the script failed, or cannot be run.
        JobFailedError: a signal ended it, or the machine failed.
    """
    from sagemaker_training import environment, errors

    code = Path(environment.code_dir)
    try:
        failure = run_script(prepare(environment.Environment(), code), code)
    except errors.ClientError:
        raise
    except Exception as error:  # noqa: BLE001  # sagemaker-training would exit with 0 for some of them
        failure = failure_of(error)
    if failure is not None:
        write_failure(Paths.from_environment(), failure)
        raise_for_toolkit(failure)


def prepare(job: Job, code: Path) -> tuple[str, ...]:
    """Download the code, install its requirements, and set its environment variables.

    Args:
        job: sagemaker-training's environment of the job.
        code: folder of the code, filled if it is empty.

    Returns:
        The program to run, and its arguments.

    Raises:
        UserError: the script is missing, or needs a launcher that is not in the image.
        ClientError: its requirements cannot be installed.
    """
    from sagemaker_training import entry_point, environment, files

    name = job.user_entry_point
    use_writable_prefix(Path(sysconfig.get_path("purelib")))
    files.download_and_extract(job.module_dir, str(code))
    if not (code / name).is_file():
        names = ", ".join(sorted(path.name for path in code.iterdir())[:10]) or "nothing"
        raise UserError(f"The script sagemaker_program={name!r} is missing from the code, which contains {names}.")
    entry_point.install(name, str(code))
    environment.write_env_vars(job.to_env_vars())
    if len(job.hosts) > 1:
        wait_for_hosts(job.hosts)
    return (*build_command(job, code), *job.to_cmd_args())


def use_writable_prefix(packages: Path) -> None:
    """Let pip install into a temporary folder if the image's own is not writable."""
    if os.access(packages, os.W_OK):
        return
    prefix = Path(tempfile.mkdtemp(prefix="packages-"))
    os.environ["PIP_PREFIX"] = str(prefix)
    os.environ["PIP_NO_CACHE_DIR"] = "1"
    os.environ["PATH"] = f"{prefix / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    sys.path.insert(0, str(prefix / packages.relative_to(sys.prefix)))


def build_command(job: Job, code: Path) -> tuple[str, ...]:
    """The command that runs the script, without a shell that would interpret its arguments.

    Raises:
        UserError: the launcher is not in this image.
    """
    name, options = job.user_entry_point, job.additional_framework_parameters
    if options.get("sagemaker_mpi_enabled"):
        raise UserError(
            "sagemaker_mpi_enabled: MPI is not part of this image; use torchrun (torch_distributed) instead."
        )
    if name.endswith(".py") and options.get("sagemaker_torch_distributed_enabled"):
        return (*_torchrun(job), name)
    if name.endswith(".py") and (code / "setup.py").is_file():
        return sys.executable, "-m", name.removesuffix(".py")
    if name.endswith(".py"):
        return sys.executable, name
    (code / name).chmod(0o755)
    has_interpreter = (code / name).read_bytes()[:2] in (b"#!", b"\x7fE")
    return (f"./{name}",) if has_interpreter else ("/bin/sh", f"./{name}")


def _torchrun(job: Job) -> tuple[str, ...]:
    """The torchrun command with one process per GPU, or one process without GPUs; the first host is the master."""
    interface = job.network_interface_name
    # Local mode of SDK 3 names an interface that does not exist, and NCCL would fail.
    if Path("/sys/class/net", interface).exists():
        os.environ["NCCL_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"] = interface
    hosts, processes = list(job.hosts), job.num_gpus or 1
    command = (sys.executable, "-m", "torch.distributed.run", f"--nnodes={len(hosts)}", f"--nproc_per_node={processes}")
    # A single host uses an address, since its name may not resolve without a network.
    master, rank = (hosts[0], hosts.index(job.current_host)) if len(hosts) > 1 else ("127.0.0.1", 0)
    return (*command, f"--node_rank={rank}", f"--master_addr={master}", f"--master_port={_MASTER_PORT}")


def wait_for_hosts(hosts: Sequence[str], seconds: float = HOST_TIMEOUT_SECONDS) -> None:
    """Wait until the names of all hosts resolve, which takes a while when a cluster starts.

    Raises:
        PlatformError: a name still does not resolve.
    """
    deadline = time.monotonic() + seconds
    for host in hosts:
        while True:
            try:
                socket.gethostbyname(host)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise PlatformError(f"The name of host {host} cannot be resolved: {error}.") from error
            time.sleep(0.5)
