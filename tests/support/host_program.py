"""A host of a job that trains nothing: follows commands on standard input, and prints an event as JSON per line.

Commands: `stop`, `fail` with the arguments of `HostGroup.fail` as JSON, `finish` with a message or nothing, and `raise`
with a message. After the result, the process exits at the next line.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from dataclasses import asdict

from finetune.errors import DataError, JobError, JobStopped
from finetune.sagemaker.config_files import Resources
from finetune.sagemaker.failure import Failure
from finetune.sagemaker.host_group.group import HostGroup
from finetune.sagemaker.host_group.members import HostInfo
from finetune.sagemaker.host_group.outcome import Times


def emit(event: str, **content: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **content}) + "\n")
    sys.stdout.flush()


def wait_for_members(group: HostGroup) -> None:
    try:
        members = group.wait_for_members()
    except (JobError, JobStopped) as error:
        emit("no members", kind=type(error).__name__, message=str(error))
        return
    ranks = [members.first_rank, members.world_size]
    emit("members", hosts=[host.name for host in members.hosts], ranks=ranks, address=members.first_address)


def follow_commands(group: HostGroup) -> Failure | None:
    """Follow commands until `finish`, and return the result."""
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "stop":
            group.stop()
        elif command == "fail":
            options = json.loads(argument)
            failure = Failure(options.pop("message"), options.pop("exit_code", 1), expected=True)
            group.fail(failure, **options)
        elif command == "finish":
            return group.finish(Failure(argument, 1, expected=True) if argument else None)
        elif command == "raise":
            raise DataError(argument)
    return None


def main() -> None:
    options = json.loads(sys.argv[1])
    resources = Resources(options["name"], tuple(options["hosts"]))
    info = HostInfo(options["name"], **options["info"])
    group = HostGroup(
        resources,
        info,
        on_stop=lambda: emit("stop"),
        on_failure=lambda failure: emit("failure", **asdict(failure)),
        port=options["port"],
        times=Times(**options["times"]),
    )
    signal.signal(signal.SIGTERM, lambda *_: group.stop())
    try:
        with group:
            emit("started")
            threading.Thread(target=wait_for_members, args=(group,), daemon=True).start()
            failure = follow_commands(group)
            emit("result", failure=None if failure is None else asdict(failure))
    except JobError as error:
        emit("error", kind=type(error).__name__, message=str(error))
        sys.exit(error.exit_code)
    sys.stdin.readline()
    sys.exit(0 if failure is None else failure.exit_code)


if __name__ == "__main__":
    main()
