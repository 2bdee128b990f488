"""Trains in File mode: the platform copies every channel to the instance before the job starts.

    scripts/example sdk_v2/train --image IMAGE --role ROLE --channel train=s3://bucket/train --output s3://bucket/jobs
    scripts/example sdk_v2/train --image IMAGE --local --channel train=file:///data/train --output file:///tmp/job

The metric definitions make the loss and accuracy of every epoch visible in the console and to tuning jobs.
"""

from __future__ import annotations

from examples.sdk_v2.estimators import estimator_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> None:
    """Train; the artifact is then at `model_data`."""
    estimator = estimator_for(settings)
    estimator.fit(dict(settings.channels), wait=settings.wait)
    if settings.wait:
        print(f"The model: {estimator.model_data}")


if __name__ == "__main__":
    main(read_settings(__doc__))
