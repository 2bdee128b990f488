"""Which variables a job finds in its environment: the platform's, the request's, and little else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sagemaker_simulator.configuration import TrainingRequest
from sagemaker_simulator.layout import JobFolder

BASE_FOLDER_VARIABLE = "SAGEMAKER_BASE_DIR"

_OF_THE_IMAGE = (
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
)


def image_path() -> str:
    """The search path of the image that this machine plays: the running Python's own commands come first."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))


def job_environment(request: TrainingRequest, folder: JobFolder) -> dict[str, str]:
    """Compose the environment of the job's process.

    An image sets variables such as `PATH`; the machine that plays the image lends its own. `PYTHONPATH` stands for what
    is installed in the image. `TRAINING_JOB_NAME`, `TRAINING_JOB_ARN` and the request's own variables are those that
    the developer guide lists, `AWS_REGION` is set as well; `SAGEMAKER_BASE_DIR` is sagemaker-training's way to move
    `/opt/ml`. Everything else that the caller has in its environment stays outside.
    """
    environment = {name: os.environ[name] for name in _OF_THE_IMAGE if name in os.environ}
    if os.environ.get("PYTHONPATH"):
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in entries if entry)
    return (
        environment
        | {
            "PATH": image_path(),
            "TRAINING_JOB_NAME": request.name,
            "TRAINING_JOB_ARN": request.arn,
            "AWS_REGION": request.region,
            BASE_FOLDER_VARIABLE: str(folder.root),
        }
        | dict(request.environment)
    )
