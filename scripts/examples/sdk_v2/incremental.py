r"""Trains an earlier job's model further, on the same classes or others: its artifact becomes the channel `model`.

    scripts/example sdk_v2/incremental --image IMAGE --role ROLE --model s3://bucket/jobs/JOB/output/model.tar.gz \
        --channel train=s3://bucket/new --output s3://bucket/jobs
    scripts/example sdk_v2/incremental --image IMAGE --local --model file:///tmp/job/model.tar.gz \
        --channel train=file:///data/new --output file:///tmp/next-job

The head is kept if the classes are the same (`reinitialize_top_layer`).
"""

from __future__ import annotations

from sagemaker.inputs import TrainingInput

from examples.sdk_v2.estimators import estimator_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> None:
    """Train further."""
    model = TrainingInput(settings.model, content_type="application/x-sagemaker-model", input_mode="File")
    estimator = estimator_for(settings)
    estimator.fit({**settings.channels, "model": model}, wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__, begins_with_model=True))
