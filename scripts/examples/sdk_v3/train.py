"""Trains in File mode: the platform copies every channel to the instance before the job starts.

scripts/example sdk_v3/train --image IMAGE --role ROLE --channel train=s3://bucket/train --output s3://bucket/jobs
scripts/example sdk_v3/train --image IMAGE --local --channel train=file:///data/train --output file:///tmp/jobs

The metric definitions make the loss and accuracy of every epoch visible in the console and to tuning jobs.
"""

from __future__ import annotations

from examples.sdk_v3.trainers import inputs_of, trainer_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> None:
    """Train; in local mode the artifact is in its own folder below `--output`."""
    trainer = trainer_for(settings)
    trainer.train(input_data_config=inputs_of(settings), wait=settings.wait)
    if settings.local:
        print(f"The model: {trainer.local_container_root}/compressed_artifacts/model.tar.gz")


if __name__ == "__main__":
    main(read_settings(__doc__))
