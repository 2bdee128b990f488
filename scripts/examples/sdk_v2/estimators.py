"""The base `Estimator` of all examples of SDK 2."""

from __future__ import annotations

from typing import Any

from sagemaker.estimator import Estimator
from sagemaker.local import LocalSession
from sagemaker.session import Session

from examples.settings import METRICS, Settings

METRIC_DEFINITIONS = [{"Name": name, "Regex": regex} for name, regex in METRICS.items()]


def estimator_for(settings: Settings, **more: Any) -> Estimator:  # noqa: ANN401 - passed through
    """An estimator of the image; `more` are additional arguments of `Estimator`."""
    # By default, the client would request a Debugger hook and a profiler for framework containers.
    more = {"debugger_hook_config": False, "disable_profiler": True, **more}
    return Estimator(
        image_uri=settings.image,
        role=settings.role,
        instance_type="local" if settings.local else settings.instance_type,
        instance_count=settings.instance_count,
        output_path=settings.output,
        base_job_name="finetune",
        hyperparameters=dict(settings.hyperparameters),
        metric_definitions=METRIC_DEFINITIONS,
        sagemaker_session=session_for(settings),
        **more,
    )


def session_for(settings: Settings) -> Session:
    """A session with the platform, or with this machine's Docker engine."""
    return LocalSession() if settings.local else Session()
