"""Trains on labels from Ground Truth: an augmented manifest, whose images the platform streams with their labels.

    scripts/example sdk_v3/augmented_manifest --image IMAGE --role ROLE --output s3://bucket/jobs --channel train=URI

`URI` is that of the manifest, such as `s3://bucket/labelled/output.manifest`, with the labels in the attribute `class`.
The platform does not pass the streamed attributes to the container, so a hyperparameter of the same name repeats them.
The channel is shuffled, because manifests are often sorted: leave that out on spot capacity, so that an interruption
changes no bit of the result.
"""

from __future__ import annotations

from dataclasses import replace

from sagemaker.core.shapes import S3DataSource, ShuffleConfig

from examples.sdk_v3.trainers import trainer_for
from examples.settings import Settings, read_settings

ATTRIBUTES = ["source-ref", "class"]


def main(settings: Settings) -> None:
    """Train on the lines of manifests, with `train` reshuffled in every epoch."""
    hyperparameters = {**settings.hyperparameters, "attribute_names": ",".join(ATTRIBUTES)}
    trainer = trainer_for(replace(settings, hyperparameters=hyperparameters))
    channels = []
    for name, uri in settings.channels.items():
        lines = S3DataSource(
            s3_data_type="AugmentedManifestFile",
            s3_uri=uri,
            s3_data_distribution_type="FullyReplicated",
            attribute_names=ATTRIBUTES,
        )
        channel = trainer.create_input_data_channel(name, lines)
        channel.input_mode = "Pipe"
        channel.content_type = "application/x-recordio"
        channel.record_wrapper_type = "RecordIO"
        if name == "train":
            channel.shuffle_config = ShuffleConfig(seed=1)
        channels.append(channel)
    trainer.train(input_data_config=channels, wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__, has_local_form=False))
