"""Runs a job in several processes on one or several hosts, from the view of one of the hosts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import finetune
from finetune.errors import JobStopped, PlatformError, UserError
from finetune.launch.agent import Nodes, run_processes
from finetune.launch.devices import gpu_model
from finetune.sagemaker.config_files import JobFiles
from finetune.sagemaker.failure import Failure, failure_of
from finetune.sagemaker.host_group.group import HostGroup
from finetune.sagemaker.host_group.members import HostInfo, Members, request_digests
from finetune.sagemaker.interruption import Interruption
from finetune.sagemaker.network import network_environment

PORT = 7777
"""Port of the first host on which the processes of all hosts find each other; that of sagemaker-training."""


def run_on_hosts(
    files: JobFiles, processes: int, interruption: Interruption, report: Callable[[Failure], object]
) -> Failure | None:
    """Run this host's processes of the job, and return the first failure of the job on any host.

    Args:
        files: the configuration files of the platform.
        processes: number of processes on this host.
        interruption: stop request of this host, which is passed on to all hosts.
        report: called with the first failure of the job as soon as it is known, in any thread.
    """
    info = HostInfo(
        name=files.resources.current_host,
        devices=processes,
        device_model=gpu_model(),
        version=finetune.__version__,
        request=request_digests(files.hyperparameters, files.channels),
    )
    failed = threading.Event()

    def on_failure(failure: Failure) -> None:
        report(failure)
        failed.set()

    group = HostGroup(files.resources, info, on_stop=interruption.request, on_failure=on_failure)
    os.environ |= network_environment(files.resources, os.environ)
    with group:
        try:
            members = group.wait_for_members(interruption.requested)
            _check_equal_counts(members)
            _run_processes(group, members, interruption, failed)
        except JobStopped:
            return group.finish()
        except BaseException as error:  # noqa: BLE001  # reported to all hosts
            return group.finish(failure_of(error))
        return group.finish()


def _check_equal_counts(members: Members) -> None:
    """Check that all hosts have the same number of processes, from which they derive the place of every process.

    Raises:
        PlatformError: They differ, for example since a GPU of a host has failed.
    """
    if len({host.devices for host in members.hosts}) > 1:
        listed = ", ".join(f"{host.name} {host.devices}" for host in members.hosts)
        raise PlatformError(
            f"The hosts have different numbers of devices ({listed}): start the job again, on equal instances."
        )


def _run_processes(group: HostGroup, members: Members, interruption: Interruption, failed: threading.Event) -> None:
    """Run the processes of this host, and report the first failure among them to all hosts."""
    several = len(members.hosts) > 1
    nodes = Nodes(
        count=len(members.hosts),
        index=members.host_index,
        first_rank=members.first_rank,
        address=members.first_address,
        port=PORT if several else None,
    )
    processes = members.hosts[members.host_index].devices
    ended = run_processes(processes, interruption, nodes, on_stop=group.stop, failed=failed)
    if ended is None:
        return
    # Errors of the user are the same in all processes of a host.
    is_unnamed = not ended.names_process and ended.failure.exit_code != UserError.exit_code
    rank = ended.rank if is_unnamed else None
    age = max(0.0, time.time() - ended.time)
    group.fail(ended.failure, rank=rank, age=age, is_consequence=ended.is_consequence)
