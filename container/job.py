"""The job's process: completes `/opt/ml`, finds out what is to be run, and lets sagemaker-training's `train` run it.

sagemaker-training calls the function that `SAGEMAKER_TRAINING_MODULE` names. That is one of three: the image's own job,
a user's script (`container.user_script`), or another module, which a derived image may name (`container.other_module`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from container.train import LARGE_PAGES
from finetune.errors import PlatformError, UserError
from finetune.messages import log_safely
from finetune.runtime.memory import set_variables, share_one_heap
from finetune.sagemaker.config_files import HYPERPARAMETERS, INPUT_DATA, RESOURCES, JobFiles, read_job_files
from finetune.sagemaker.failure import Failure, failure_of, is_about_memory, write_failure
from finetune.sagemaker.paths import Paths, check_writable

MODULE = "SAGEMAKER_TRAINING_MODULE"
OTHER_MODULE = "FINETUNE_OTHER_MODULE"
OURS = "finetune.entry:main"
TOOLKIT_FAILURES = ("Framework Error:", "SMTrainingCompiler Error:")
"""First words of what sagemaker-training writes about its own failures."""


def main() -> int:
    """Run the job of this container; sagemaker-training ends the process with its exit code."""
    log_safely()
    signal.signal(signal.SIGTERM, _leave)
    # A stop that came while Python started has waited.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    # This process has heeded it; what it starts has the defaults of glibc.
    if os.environ.get(LARGE_PAGES[0]) == LARGE_PAGES[1]:
        del os.environ[LARGE_PAGES[0]]
    if not os.environ.get("PATH"):
        os.environ["PATH"] = os.defpath  # sagemaker-training starts programs by their names
    paths = Paths.from_environment()
    try:
        files = read_job_files(paths)
        complete(paths, files)
        os.environ.update(way(files, os.environ))
        if os.environ[MODULE] == OURS:
            set_variables()
            share_one_heap()
        from sagemaker_training.cli.train import main as train  # its import creates folders and reads the machine
    except Exception as error:  # noqa: BLE001  # sagemaker-training would exit with 0 for any of them
        failure = failure_of(error)
        write_failure(paths, failure)
        sys.stderr.write(f"{failure.message}\n")
        return failure.exit_code

    try:
        train()
    except SystemExit as end:
        code = reported(paths, end.code if isinstance(end.code, int) else 1)
        if os.environ[MODULE] == OURS:
            leave(code)
        return code
    return 0


def reported(paths: Paths, code: int) -> int:
    """Put the cause first where sagemaker-training itself failed; its own failure file begins with a traceback.

    Args:
        paths: of the job.
        code: exit code of sagemaker-training.

    Returns:
        The exit code of the job.
    """
    try:
        text = paths.failure.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return code
    if not code or not text.startswith(TOOLKIT_FAILURES):
        return code
    raised = re.findall(r"^[A-Za-z_][\w.]*(?:: .*)?$", text, re.MULTILINE)
    cause, details = raised[-1] if raised else "it does not say why", text.partition("\n")[2]
    failure = failure_of(MemoryError()) if is_about_memory(text) else None
    exit_code = code if code == UserError.exit_code else PlatformError.exit_code
    failure = failure or Failure(
        f"sagemaker-training cannot start this job: {cause}\n{details}", exit_code, expected=False
    )
    paths.failure.unlink(missing_ok=True)
    write_failure(paths, failure)
    sys.stderr.write(f"{failure.message.splitlines()[0]}\n")
    return failure.exit_code


def leave(code: int) -> NoReturn:
    """End the process after our own job, all of whose files are closed; taking torch apart needs 0.1 s."""
    logging.shutdown()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def complete(paths: Paths, files: JobFiles) -> None:
    """Write the configuration files and make the folders that a client left out; what is there stays as it is.

    sagemaker-training exits with 0, and says nothing, where one of its three files is missing and it cannot write into
    `output/` either.

    Raises:
        OSError: a folder cannot be made.
        PlatformError: a folder cannot be written.
    """
    defaults: dict[str, object] = {
        HYPERPARAMETERS: dict(files.hyperparameters),
        INPUT_DATA: {name: {"TrainingInputMode": "File"} for name in files.channels},
        RESOURCES: {"current_host": files.resources.current_host, "hosts": list(files.resources.hosts)},
    }
    for folder in (paths.config, paths.model, paths.output_data):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable(paths.model, paths.output, paths.output_data)
    for name, value in defaults.items():
        if not (paths.config / name).exists():
            # Whole or not at all: a stop may come here, and the next start in this folder reads what is there.
            partial = paths.config / f".{name}.partial"
            partial.write_text(json.dumps(value), encoding="utf-8")
            partial.replace(paths.config / name)


def way(files: JobFiles, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that tell sagemaker-training what to run.

    A module that was named stands before a script, as in sagemaker-training itself.
    """
    named = environment.get(MODULE)
    if named and named != OURS:
        return {MODULE: "container.other_module:main", OTHER_MODULE: named}
    if not named and (environment.get("SAGEMAKER_PROGRAM") or files.hyperparameters.get("sagemaker_program")):
        return {MODULE: "container.user_script:main"}
    return {MODULE: OURS}


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: whoever has something to save owns SIGTERM at that time."""
    del number, frame
    os.write(2, b"Stopped while no training was running.\n")
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
