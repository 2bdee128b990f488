"""Runs a hyperparameter tuning job: 12 jobs, 3 at a time, compared by their best accuracy on `validation`.

    scripts/example sdk_v3/tune --image IMAGE --role ROLE --channel train=s3://bucket/train --output s3://bucket/jobs

Add a channel `validation`, so that all jobs are evaluated on the same records. Local mode has no tuning jobs.
"""

from __future__ import annotations

from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter
from sagemaker.train.tuner import HyperparameterTuner

from examples.sdk_v3.trainers import inputs_of, trainer_for
from examples.settings import METRICS, Settings, read_settings

RANGES = {
    "learning_rate": ContinuousParameter(1e-5, 1e-2, scaling_type="Logarithmic"),
    "layer_decay": ContinuousParameter(0.6, 1.0),
    "epochs": IntegerParameter(3, 12),
    "strategy": CategoricalParameter(["feature_extraction", "partial", "full"]),
}


def main(settings: Settings) -> None:
    """Start the search."""
    tuner = HyperparameterTuner(
        model_trainer=trainer_for(settings),
        objective_metric_name="validation:accuracy",
        metric_definitions=[{"Name": name, "Regex": regex} for name, regex in METRICS.items()],
        hyperparameter_ranges=RANGES,
        objective_type="Maximize",
        max_jobs=12,
        max_parallel_jobs=3,
        base_tuning_job_name="finetune",
    )
    tuner.tune(inputs=inputs_of(settings), wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__, has_local_form=False))
