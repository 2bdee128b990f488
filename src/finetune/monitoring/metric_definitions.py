"""Metric definitions, objectives and suggested search ranges for SageMaker estimators and tuners."""

from __future__ import annotations

import json

from finetune.monitoring.metric_lines import METRICS

SEARCH_RANGES: dict[str, dict[str, object]] = {
    "learning_rate": {"type": "Continuous", "min": 1e-5, "max": 1e-2, "scaling": "Logarithmic"},
    "head_learning_rate": {"type": "Continuous", "min": 1e-4, "max": 1e-1, "scaling": "Logarithmic"},
    "weight_decay": {"type": "Continuous", "min": 1e-4, "max": 1e-1, "scaling": "Logarithmic"},
    "layer_decay": {"type": "Continuous", "min": 0.5, "max": 1.0, "scaling": "Linear"},
    "label_smoothing": {"type": "Continuous", "min": 0.0, "max": 0.2, "scaling": "Linear"},
    "dropout": {"type": "Continuous", "min": 0.0, "max": 0.5, "scaling": "Linear"},
    "warmup_fraction": {"type": "Continuous", "min": 0.0, "max": 0.2, "scaling": "Linear"},
    "batch_size": {"type": "Integer", "min": 8, "max": 128, "scaling": "Logarithmic"},
    "epochs": {"type": "Integer", "min": 3, "max": 30, "scaling": "Logarithmic"},
    "strategy": {"type": "Categorical", "values": ["feature_extraction", "partial", "full", "gradual"]},
    "augmentation": {"type": "Categorical", "values": ["none", "basic", "strong"]},
    "optimizer": {"type": "Categorical", "values": ["adamw", "sgd"]},
}
"""Suggested search ranges; two or three are enough for a tuner, starting with `learning_rate`."""


def metric_definitions() -> str:
    """Return the content of `docs/metric_definitions.json`."""
    document = {
        "metric_definitions": [{"Name": metric.name, "Regex": metric.regex} for metric in METRICS],
        "objectives": [
            {"MetricName": metric.name, "Type": metric.direction, "every_epoch": metric.every_epoch}
            | ({"multi_label": True} if metric.multi_label else {})
            for metric in METRICS
            if metric.direction is not None
        ],
        "tuning_ranges": SEARCH_RANGES,
    }
    return json.dumps(document, indent=2) + "\n"
