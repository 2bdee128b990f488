"""A small job report with everything that a page can show."""

from __future__ import annotations

from typing import Any

HOSTILE = "<script>document.title='run'</script><img src=x onerror=alert(1)>"
SECTIONS = (
    *("rules", "curves", "confusion", "classes", "calibration", "rates", "wrong", "duplicates", "bad", "balance"),
    *("layers", "time", "interruptions", "request"),
)


def metrics() -> dict[str, Any]:
    """Metrics of one split with three classes."""
    names = ("a", HOSTILE, "c")
    quality = {"precision": 0.75, "recall": 0.5, "f1": 0.6}
    return {
        "records": 12,
        "accuracy": 0.75,
        "majority_baseline_accuracy": 0.25,
        "majority_class": "a",
        "log_loss": 0.7,
        "auc": 0.9,
        "macro": quality,
        "weighted": quality,
        "expected_calibration_error": 0.12,
        "calibration": [
            {"from": 0.4, "to": 0.5, "answers": 4, "confidence": 0.45, "accuracy": 0.5},
            {"from": 0.9, "to": 1.0, "answers": 8, "confidence": 0.95, "accuracy": 0.8},
        ],
        "labels": list(names),
        "per_class": [{"label": name, "support": 4, **quality, "auc": None} for name in names],
        "confusion_matrix": [[4, 0, 0], [1, 3, 0], [2, 0, 2]],
        "confusion_pairs": [["c", "a", 2], [HOSTILE, "a", 1]],
        "confusion_pairs_count": 2,
    }


def example() -> dict[str, Any]:
    """The report of a text job, interrupted once, with leakage and findings."""
    counts = {"a": 5, HOSTILE: 1, "c": 4}
    return {
        "title": f"tiny on {HOSTILE}",
        "job": {"epochs": 2, "steps": 20, "best_epoch": 2, "exported_epoch": 2, "strategy": "full"},
        "history": [
            {"train:loss": 1.5, "train:accuracy": 0.4, "validation:loss": 1.2, "validation:accuracy": 0.5},
            {"train:loss": 0.5, "train:accuracy": 0.9, "validation:loss": 0.7, "validation:accuracy": 0.75},
        ],
        "asked": {
            "hyperparameters": {"label_column": HOSTILE},
            "notes": [f"{HOSTILE} is ignored."],
            "effective": {"epochs": 2, "class_weights": "none", "label_smoothing": 0.0},
        },
        "plan": {
            "facts": {"task": "text-classification", "network": HOSTILE},
            "groups": [
                {"name": "stem", "parameters": 100, "rate": None, "first_epoch": None, "drift": None},
                {"name": "head", "parameters": 10, "rate": 0.001, "first_epoch": 0, "drift": 0.25},
            ],
        },
        "records": {"train": 10, "validation": 12},
        "classes": {"train": counts, "validation": counts},
        "training_counts": counts,
        "parts": {"validation": metrics()},
        "wrong": {
            "part": "validation",
            "of": 12,
            "count": 1,
            "records": [
                {
                    "key": HOSTILE,
                    "truth": "a",
                    "predicted": "c",
                    "probability": 0.99,
                    "text": f"{HOSTILE} is what I say",
                }
            ],
        },
        "duplicates": {
            "count": 1,
            "contradictions": 1,
            "leaks": [{"parts": ["train", "validation"], "records": 1}],
            "groups": [
                {
                    "records": [
                        {"part": "train", "key": "a.csv:1", "labels": ["a"]},
                        {"part": "validation", "key": HOSTILE, "labels": ["c"]},
                    ]
                }
            ],
        },
        "bad_records": {"train": [[HOSTILE, "is no text"]]},
        "rates": {"steps": [0, 10, 19], "groups": {"head": [0.0001, 0.001, None]}},
        "rules": ["Overfit"],
        "findings": [
            {"rule": "Overfit", "step": 19, "where": "epoch 2", "seen": "loss 0.7 against 0.5", "advice": HOSTILE}
        ],
        "machine_findings": [
            {"rule": "StepOutlier", "step": 19, "where": "steps", "seen": "20 of 200 steps", "advice": HOSTILE}
        ],
        "time": {"parts": {"start": 3.0, "data": 1.0, "forward": 2.0, "rest": 0.0}, "records_per_second": 12.5},
        "interruptions": {
            "starts": 2,
            "steps_repeated": 3,
            "load_seconds": 0.5,
            "stall_seconds": 0.1,
            "save_seconds": 1,
        },
        "cost": {"seconds": 6.0, "price_per_hour": 3.6, "price": 0.006},
        "forgetting": {"part": "validation", "classes": ["a"], "records": 4, "before": 0.75, "after": 0.5},
        "versions": {"torch": "2.11.0"},
    }
