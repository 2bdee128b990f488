"""Trains on spot capacity: cheaper, but may be reclaimed at any moment, which affects only the duration.

    scripts/example sdk_v3/spot --image IMAGE --role ROLE --channel train=s3://bucket/train --output s3://bucket/jobs

The platform syncs /opt/ml/checkpoints with the checkpoints' URI. The job saves its checkpoints there and resumes from
them after an interruption, with the same final weights as without it. A folder belongs to one job. Local mode ignores
spot and checkpoints: `scripts/run-local --interrupt-at 20` simulates them on this machine.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sagemaker.core.training.configs import CheckpointConfig, StoppingCondition

from examples.sdk_v3.trainers import inputs_of, trainer_for
from examples.settings import Settings, read_settings

HOURS = 3600


def main(settings: Settings) -> None:
    """Train for at most 4 hours, and wait for capacity for at most 8 more."""
    folder = f"{settings.output}/checkpoints/finetune-{datetime.now(tz=UTC):%Y-%m-%d-%H-%M-%S}"
    trainer = trainer_for(
        settings,
        spot=True,
        stopping_condition=StoppingCondition(max_runtime_in_seconds=4 * HOURS, max_wait_time_in_seconds=12 * HOURS),
        checkpoint_config=CheckpointConfig(s3_uri=folder),
    )
    trainer.train(input_data_config=inputs_of(settings), wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__, has_local_form=False))
