"""Trains on what Ground Truth labelled: an augmented manifest, whose pictures the platform streams with their labels.

    scripts/example sdk_v2/augmented_manifest --image IMAGE --role ROLE --output s3://bucket/jobs --channel train=URI

`URI` is that of the manifest, such as `s3://bucket/labelled/output.manifest`, whose labels are taken to stand in the
attribute `class`. The platform does not tell the container which attributes it streams, so the job is told by a
hyperparameter of the same name. Shuffled, because manifests are often sorted: on spot capacity leave that out, and an
interruption changes no bit.
"""

from __future__ import annotations

from dataclasses import replace

from sagemaker.inputs import ShuffleConfig, TrainingInput

from examples.sdk_v2.estimators import estimator_for
from examples.settings import Settings, read_settings

ATTRIBUTES = ["source-ref", "class"]


def main(settings: Settings) -> None:
    """Train on the lines of manifests, `train` in another order in every epoch."""
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
    told = {**settings.hyperparameters, "attribute_names": ",".join(ATTRIBUTES)}
    estimator_for(replace(settings, hyperparameters=told)).fit(channels, wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__, has_local_form=False))
