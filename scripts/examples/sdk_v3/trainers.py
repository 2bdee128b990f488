"""The base `ModelTrainer` of all examples of SDK 3."""

from __future__ import annotations

import tempfile
from typing import Any

from sagemaker.core.training.configs import Compute, InputData, MetricDefinition, OutputDataConfig
from sagemaker.train import ModelTrainer
from sagemaker.train.model_trainer import Mode

from examples.settings import METRICS, Settings

METRIC_DEFINITIONS = [MetricDefinition(name=name, regex=regex) for name, regex in METRICS.items()]


def trainer_for(settings: Settings, *, spot: bool | None = None, **more: Any) -> ModelTrainer:  # noqa: ANN401
    """A trainer of the image; `more` are additional arguments of `ModelTrainer`."""
    if settings.local:
        # Each job has its own folder, since files of an earlier job would end up in this one's artifacts.
        more |= {
            "training_mode": Mode.LOCAL_CONTAINER,
            "local_container_root": tempfile.mkdtemp(prefix="finetune-", dir=settings.output.removeprefix("file://")),
        }
    trainer = ModelTrainer(
        training_image=settings.image,
        role=settings.role,
        base_job_name="finetune",
        compute=Compute(
            instance_type="local_cpu" if settings.local else settings.instance_type,
            instance_count=settings.instance_count,
            enable_managed_spot_training=spot,
        ),
        output_data_config=OutputDataConfig(s3_output_path=settings.output),
        hyperparameters=dict(settings.hyperparameters),
        **more,
    )
    return trainer.with_metric_definitions(METRIC_DEFINITIONS)


def inputs_of(settings: Settings) -> list[InputData]:
    """Every channel: an `s3://` URI, or a folder of this machine in local mode."""
    return [
        InputData(channel_name=name, data_source=uri.removeprefix("file://")) for name, uri in settings.channels.items()
    ]
