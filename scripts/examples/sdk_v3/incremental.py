r"""Trains an earlier job's model further, on the same classes or others: its artifact becomes the channel `model`.

    scripts/example sdk_v3/incremental --image IMAGE --role ROLE --model s3://bucket/jobs/JOB/output/model.tar.gz \
        --channel train=s3://bucket/new --output s3://bucket/jobs
    scripts/example sdk_v3/incremental --image IMAGE --local --model file:///tmp/jobs/JOB/compressed_artifacts \
        --channel train=file:///data/new --output file:///tmp/jobs

The head is kept if the classes are the same (`reinitialize_top_layer`).
"""

from __future__ import annotations

from sagemaker.core.training.configs import InputData

from examples.sdk_v3.trainers import inputs_of, trainer_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> None:
    """Train further."""
    model = InputData(
        channel_name="model",
        data_source=(settings.model or "").removeprefix("file://"),
        content_type="application/x-sagemaker-model",
    )
    trainer_for(settings).train(input_data_config=[*inputs_of(settings), model], wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__, begins_with_model=True))
