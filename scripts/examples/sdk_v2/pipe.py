"""Trains in Pipe mode: objects stream from S3 as they are read, so training begins at once and no disk fills.

    scripts/example sdk_v2/pipe --image IMAGE --role ROLE --channel train=s3://bucket/shards/ --output s3://bucket/jobs

The objects under the prefix may be tar shards, RecordIO, TFRecord, JSON Lines or CSV; the job sees which from their
first bytes, and takes records for pictures: texts need `--hyperparameter task=text-classification`. Classes and
number of records are found out by a first pass, which `--hyperparameter class_names=cat,dog` and `--hyperparameter
num_training_samples=100000` save. Local mode has no Pipe mode: it copies all files first, and says nothing;
`scripts/run-local --input-mode Pipe` has.
"""

from __future__ import annotations

from sagemaker.inputs import TrainingInput

from examples.sdk_v2.estimators import estimator_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> None:
    """Train on channels that stream."""
    channels = {name: TrainingInput(uri, input_mode="Pipe") for name, uri in settings.channels.items()}
    estimator_for(settings).fit(channels, wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__, has_local_form=False))
