"""Trains in FastFile mode: files are fetched from S3 when they are first read, so the job starts at once.

    scripts/example sdk_v2/fast_file --image IMAGE --role ROLE --channel train=s3://bucket/train --output s3://bucket/jobs

For the image it is the same as File mode. Local mode has no FastFile mode: it copies all files first, and says nothing.
"""

from __future__ import annotations

from sagemaker.inputs import TrainingInput

from examples.sdk_v2.estimators import estimator_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> None:
    """Train on channels that are read as they are needed."""
    channels = {name: TrainingInput(uri, input_mode="FastFile") for name, uri in settings.channels.items()}
    estimator_for(settings).fit(channels, wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__))
