"""Trains on spot capacity: cheaper, but may be reclaimed at any moment, which affects only the duration.

    scripts/example sdk_v2/spot --image IMAGE --role ROLE --channel train=s3://bucket/train --output s3://bucket/jobs

The platform syncs /opt/ml/checkpoints with `checkpoint_s3_uri`. The job saves its checkpoints there and resumes from
them after an interruption, with the same final weights as without it. A folder belongs to one job. Local mode rejects
spot: `scripts/run-local --interrupt-at 20` simulates it on this machine.
"""

from __future__ import annotations

from sagemaker.utils import name_from_base

from examples.sdk_v2.estimators import estimator_for
from examples.settings import Settings, read_settings

HOURS = 3600


def main(settings: Settings) -> None:
    """Train for at most 4 hours, and wait for capacity for at most 8 more."""
    name = name_from_base("finetune")
    estimator = estimator_for(
        settings,
        use_spot_instances=True,
        max_run=4 * HOURS,
        max_wait=12 * HOURS,
        checkpoint_s3_uri=f"{settings.output}/checkpoints/{name}",
    )
    estimator.fit(dict(settings.channels), wait=settings.wait, job_name=name)


if __name__ == "__main__":
    main(read_settings(__doc__, has_local_form=False))
