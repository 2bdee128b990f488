"""Trains in Pipe mode: objects are streamed from S3, so training starts at once and needs no disk space.

    scripts/example sdk_v3/pipe --image IMAGE --role ROLE --channel train=s3://bucket/shards/ --output s3://bucket/jobs

The objects under the prefix may be tar shards, RecordIO, TFRecord, JSON Lines or CSV; the job detects the format from
their first bytes, and expects images: texts need `--hyperparameter task=text-classification`. Classes and number of
records are determined in a first pass, unless given by `--hyperparameter class_names=cat,dog` and `--hyperparameter
num_training_samples=100000`. Local mode has no Pipe mode and silently copies all files first; use
`scripts/run-local --input-mode Pipe` instead.
"""

from __future__ import annotations

from examples.sdk_v3.trainers import inputs_of, trainer_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> None:
    """Train on channels that stream."""
    trainer = trainer_for(settings)
    channels = [
        trainer.create_input_data_channel(channel.channel_name, channel.data_source) for channel in inputs_of(settings)
    ]
    for channel in channels:
        channel.input_mode = "Pipe"
    trainer.train(input_data_config=channels, wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__, has_local_form=False))
