#!/usr/bin/env python3
"""The image's `train`: completes `/opt/ml` where a client left files out, then runs sagemaker-training's `train`.

sagemaker-training exits with 0, and says nothing, where one of its three files is missing and `output/` is missing too.
So what is missing is written first, in the form in which the platform writes it; what is there stays as it is.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from finetune.contract.job_files import HYPERPARAMETERS, INPUT_DATA, RESOURCES, read_job_files
from finetune.contract.outcome import failure_of, write_failure
from finetune.contract.paths import Paths


def complete(paths: Paths) -> None:
    """Write the configuration files and make the folders that are missing.

    Raises:
        JobError: a file that is there cannot be read.
        OSError: a folder cannot be written.
    """
    files = read_job_files(paths)
    defaults: dict[str, object] = {
        HYPERPARAMETERS: dict(files.hyperparameters),
        INPUT_DATA: {name: {"TrainingInputMode": "File"} for name in files.channels},
        RESOURCES: {"current_host": files.resources.current_host, "hosts": list(files.resources.hosts)},
    }
    for folder in (paths.config, paths.model, paths.output_data):
        folder.mkdir(parents=True, exist_ok=True)
    for name, value in defaults.items():
        if not (paths.config / name).exists():
            (paths.config / name).write_text(json.dumps(value), encoding="utf-8")


def main() -> int:
    """Run the job of this container; sagemaker-training ends the process with its exit code."""
    paths = Paths.from_environment()
    try:
        complete(paths)
    except Exception as error:  # noqa: BLE001  # sagemaker-training would exit with 0 for any of them
        failure = failure_of(error)
        write_failure(paths, failure)
        sys.stderr.write(f"{failure.message}\n")
        return failure.exit_code
    os.environ.setdefault("SAGEMAKER_TRAINING_MODULE", "finetune.entry:main")
    from sagemaker_training.cli.train import main as train  # its import creates folders and reads the machine

    train()
    return 0


if __name__ == "__main__":
    sys.exit(main())
