"""Trains in FastFile mode: files are fetched from S3 when they are first read, so the job starts at once.

    scripts/example sdk_v2/fast_file --image IMAGE --role ROLE --channel train=s3://bucket/train --output s3://bucket/jobs

The image does not distinguish it from File mode. Local mode has no FastFile mode and silently copies all files first.
"""

from __future__ import annotations

from sagemaker.inputs import TrainingInput

from examples.sdk_v2.estimators import estimator_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> None:
    """Train on channels that are read on demand."""
    channels = {name: TrainingInput(uri, input_mode="FastFile") for name, uri in settings.channels.items()}
    estimator_for(settings).fit(channels, wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__))
