"""Trains in FastFile mode: files are fetched from S3 when they are first read, so the job starts at once.

    scripts/example sdk_v3/fast_file --image IMAGE --role ROLE --channel train=s3://bucket/train --output s3://bucket/jobs

The image does not distinguish it from File mode. Local mode has no FastFile mode and silently copies all files first.
"""

from __future__ import annotations

from examples.sdk_v3.trainers import inputs_of, trainer_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> None:
    """Train on channels that are read on demand."""
    trainer = trainer_for(settings)
    channels = [
        trainer.create_input_data_channel(channel.channel_name, channel.data_source) for channel in inputs_of(settings)
    ]
    for channel in channels:
        channel.input_mode = "FastFile"
    trainer.train(input_data_config=channels, wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__))
