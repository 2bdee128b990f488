"""Trains on labels from Ground Truth: an augmented manifest, whose images the platform streams with their labels.

    scripts/example sdk_v2/augmented_manifest --image IMAGE --role ROLE --output s3://bucket/jobs --channel train=URI

`URI` is that of the manifest, such as `s3://bucket/labelled/output.manifest`, with the labels in the attribute `class`.
The platform does not pass the streamed attributes to the container, so a hyperparameter of the same name repeats them.
The channel is shuffled, because manifests are often sorted: leave that out on spot capacity, so that an interruption
changes no bit of the result.
"""

from __future__ import annotations

from dataclasses import replace

from sagemaker.inputs import ShuffleConfig, TrainingInput

from examples.sdk_v2.estimators import estimator_for
from examples.settings import Settings, read_settings

ATTRIBUTES = ["source-ref", "class"]


def main(settings: Settings) -> None:
    """Train on the lines of manifests, with `train` reshuffled in every epoch."""
    channels = {
        name: TrainingInput(
            uri,
            input_mode="Pipe",
            s3_data_type="AugmentedManifestFile",
            attribute_names=ATTRIBUTES,
            record_wrapping="RecordIO",
            content_type="application/x-recordio",
            shuffle_config=ShuffleConfig(seed=1) if name == "train" else None,
        )
        for name, uri in settings.channels.items()
    }
    hyperparameters = {**settings.hyperparameters, "attribute_names": ",".join(ATTRIBUTES)}
    estimator_for(replace(settings, hyperparameters=hyperparameters)).fit(channels, wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__, has_local_form=False))
