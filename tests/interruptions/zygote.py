"""A process that has imported everything, and forks itself into a job, or a rank of one, on request.

Importing takes six seconds and is unaffected by interruptions; a forked start takes a tenth of a second. So hundreds
of starts can be killed in the time of a few.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn, cast

MODULES = (
    "finetune.entry",
    "finetune.job.run",
    "finetune.distributed.process_group",
    "finetune.launch.agent",
    "torchvision",
    "transformers.models.bert.modeling_bert",
)


def main() -> None:
    """Fork for each request and report the process id; or wait for one, and report its exit code, -n after signal n."""
    for name in MODULES:
        importlib.import_module(name)
    _tell("ready")
    for line in sys.stdin:
        order = json.loads(line)
        if "process" in order:
            _tell(os.waitstatus_to_exitcode(os.waitpid(order["process"], 0)[1]))
            continue
        pid = os.fork()
        if pid == 0:
            _become_job(order)
        _tell(pid)


def _become_job(order: dict[str, object]) -> NoReturn:
    environment = order["environment"]
    assert isinstance(environment, dict)
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(Path(str(environment["SAGEMAKER_BASE_DIR"])))
    tempfile.tempdir = None
    # For a signal that arrives after the job stops handling it. In the image its end is a success, too
    # (`container.train`).
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = 99
    try:
        code = _run(order)
    finally:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)


def _run(order: dict[str, object]) -> int:
    """Run the job, or the program that is given instead of it, with its arguments; return the exit code."""
    from finetune.entry import run

    program, *arguments = cast("list[str]", order["program"]) or [""]
    if not program:
        return run()
    sys.argv = ["-c", *arguments]
    try:
        exec(program, {"__name__": "__main__"})
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _tell(value: object) -> None:
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
