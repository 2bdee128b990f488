"""Environment variables of a job: the platform's, the request's and a few of the image's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sagemaker_simulator.configuration import TrainingRequest
from sagemaker_simulator.layout import JobFolder

BASE_FOLDER_VARIABLE = "SAGEMAKER_BASE_DIR"

_IMAGE_VARIABLES = (
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
    """Return the search path of the simulated image: the running Python's commands come first."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))


def job_environment(request: TrainingRequest, folder: JobFolder) -> dict[str, str]:
    """Build the environment of the job's process.

    Variables that an image sets, such as `PATH`, are taken from this machine; `PYTHONPATH` represents the packages
    installed in the image. `TRAINING_JOB_NAME`, `TRAINING_JOB_ARN` and the request's variables are listed in the
    developer guide, and `AWS_REGION` is set as well. `SAGEMAKER_BASE_DIR` makes sagemaker-training use a different
    `/opt/ml`. No other variables of the caller are passed on.
    """
    environment = {name: os.environ[name] for name in _IMAGE_VARIABLES if name in os.environ}
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
