"""The job's process: completes `/opt/ml`, selects the module to run, and runs it with sagemaker-training's `train`.

sagemaker-training calls the function named by `SAGEMAKER_TRAINING_MODULE`. It is one of three: the image's own job, a
user's script (`container.user_script`), or another module named by a derived image (`container.other_module`).
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

from container.train import HUGE_PAGES
from finetune.errors import PlatformError, UserError
from finetune.messages import log_safely
from finetune.runtime.memory import set_variables, share_one_heap
from finetune.sagemaker.config_files import HYPERPARAMETERS, INPUT_DATA, RESOURCES, JobFiles, read_job_files
from finetune.sagemaker.failure import Failure, failure_of, is_about_memory, write_failure
from finetune.sagemaker.paths import Paths, check_writable

MODULE = "SAGEMAKER_TRAINING_MODULE"
OTHER_MODULE = "FINETUNE_OTHER_MODULE"
OWN_MODULE = "finetune.entry:main"
TOOLKIT_FAILURES = ("Framework Error:", "SMTrainingCompiler Error:")
"""Prefixes of sagemaker-training's messages about its own failures."""


def main() -> int:
    """Run the job of this container; sagemaker-training ends the process with its exit code."""
    log_safely()
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    # Deliver a SIGTERM that arrived while Python started.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    # The setting has taken effect in this process; child processes get the defaults of glibc.
    if os.environ.get(HUGE_PAGES[0]) == HUGE_PAGES[1]:
        del os.environ[HUGE_PAGES[0]]
    if not os.environ.get("PATH"):
        os.environ["PATH"] = os.defpath  # sagemaker-training starts programs by name
    paths = Paths.from_environment()
    try:
        files = read_job_files(paths)
        prepare_folders(paths, files)
        os.environ.update(select_module(files, os.environ))
        if os.environ[MODULE] == OWN_MODULE:
            set_variables()
            share_one_heap()
        from sagemaker_training.cli.train import main as train  # import creates folders and inspects the machine
    except Exception as error:  # noqa: BLE001  # sagemaker-training would exit with 0 for any of them
        failure = failure_of(error)
        write_failure(paths, failure)
        sys.stderr.write(f"{failure.message}\n")
        return failure.exit_code

    try:
        train()
    except SystemExit as error:
        code = rewrite_toolkit_failure(paths, error.code if isinstance(error.code, int) else 1)
        if os.environ[MODULE] == OWN_MODULE:
            exit_process(code)
        return code
    return 0


def rewrite_toolkit_failure(paths: Paths, code: int) -> int:
    """Rewrite the failure file of an error in sagemaker-training itself, which starts with a traceback, cause first.

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
    exceptions = re.findall(r"^[A-Za-z_][\w.]*(?:: .*)?$", text, re.MULTILINE)
    cause, details = exceptions[-1] if exceptions else "unknown cause", text.partition("\n")[2]
    failure = failure_of(MemoryError()) if is_about_memory(text) else None
    exit_code = code if code == UserError.exit_code else PlatformError.exit_code
    failure = failure or Failure(
        f"sagemaker-training cannot start this job: {cause}\n{details}", exit_code, expected=False
    )
    paths.failure.unlink(missing_ok=True)
    write_failure(paths, failure)
    sys.stderr.write(f"{failure.message.splitlines()[0]}\n")
    return failure.exit_code


def exit_process(code: int) -> NoReturn:
    """End the process after the image's own job, whose files are all closed; unloading torch would take 0.1 s."""
    logging.shutdown()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def prepare_folders(paths: Paths, files: JobFiles) -> None:
    """Write missing configuration files and create missing folders; existing ones are unchanged.

    sagemaker-training silently exits with 0 if one of its three files is missing and it cannot write into `output/`
    either.

    Raises:
        OSError: a folder cannot be created.
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
            # Write atomically: the process may be stopped here, and the next start in this folder reads the files.
            partial = paths.config / f".{name}.partial"
            partial.write_text(json.dumps(value), encoding="utf-8")
            partial.replace(paths.config / name)


def select_module(files: JobFiles, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that select the module that sagemaker-training runs.

    A named module takes precedence over a script, as in sagemaker-training itself.
    """
    module = environment.get(MODULE)
    if module and module != OWN_MODULE:
        return {MODULE: "container.other_module:main", OTHER_MODULE: module}
    if not module and (environment.get("SAGEMAKER_PROGRAM") or files.hyperparameters.get("sagemaker_program")):
        return {MODULE: "container.user_script:main"}
    return {MODULE: OWN_MODULE}


def _exit_on_sigterm(number: int, frame: FrameType | None) -> None:
    """Exit immediately: any code with state to save has its own SIGTERM handler."""
    del number, frame
    os.write(2, b"Stopped while no training was running.\n")
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
