"""Trains on what Ground Truth labelled: an augmented manifest, whose pictures the platform streams with their labels.

    scripts/example sdk_v3/augmented_manifest --image IMAGE --role ROLE --output s3://bucket/jobs --channel train=URI

`URI` is that of the manifest, such as `s3://bucket/labelled/output.manifest`, whose labels are taken to stand in the
attribute `class`. The platform does not tell the container which attributes it streams, so the job is told by a
hyperparameter of the same name. Shuffled, because manifests are often sorted: on spot capacity leave that out, and an
interruption changes no bit.
"""

from __future__ import annotations

from dataclasses import replace

from sagemaker.core.shapes import S3DataSource, ShuffleConfig

from examples.sdk_v3.trainers import trainer_for
from examples.settings import Settings, read_settings

ATTRIBUTES = ["source-ref", "class"]


def main(settings: Settings) -> None:
    """Train on the lines of manifests, `train` in another order in every epoch."""
    told = {**settings.hyperparameters, "attribute_names": ",".join(ATTRIBUTES)}
    trainer = trainer_for(replace(settings, hyperparameters=told))
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
