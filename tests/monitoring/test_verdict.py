"""The report's verdict is good only without evidence against the model."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from finetune.monitoring.report import page, verdict
from finetune.monitoring.report.verdict import wilson_interval
from finetune.tasks.metrics import multi_label_metrics, single_label_metrics
from tests.support.reports import HOSTILE, example

NAMES = ("circle", "star", "triangle")


def metrics(truth: list[int], predicted: list[int], names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    probabilities = np.full((len(truth), len(names)), 0.1)
    probabilities[np.arange(len(truth)), predicted] = 0.8
    return single_label_metrics(np.array(truth), probabilities, names)


def multi_label_evaluation(truth: list[list[int]], predicted: list[list[int]]) -> dict[str, Any]:
    return multi_label_metrics(np.array(truth), np.array(predicted) * 0.8 + 0.1, NAMES)


def report(metrics_json: dict[str, Any], **changes: object) -> dict[str, Any]:
    """The report of a job without findings or data problems."""
    report_json = example() | {
        "findings": [], "machine_findings": [], "parts": {"test": metrics_json},
        "training_counts": dict.fromkeys(NAMES, 20), "rules": ["Overfit"],
        "duplicates": {"count": 0, "contradictions": 0, "leaks": [], "groups": []},
    }  # fmt: skip
    return report_json | changes


GOOD = metrics([0, 1, 2] * 20, [0, 1, 2] * 18 + [1, 2, 0] * 2)
TRUTH = [0] * 32 + [1] * 4 + [2] * 4


def kind_and_headline(metrics_json: dict[str, Any], **changes: object) -> tuple[str, str]:
    result = verdict(report(metrics_json, **changes))
    return result.kind, result.headline


def test_good_model_has_good_verdict_with_confidence_interval() -> None:
    result = verdict(report(GOOD))
    assert (result.kind, result.headline) == ("good", "Accuracy 90.0% on test")
    assert "95% interval 80% to 95%" in result.reasons[0]
    assert "No findings" in page(report(GOOD))


def test_model_worse_than_baseline_has_bad_verdict() -> None:
    assert kind_and_headline(metrics(TRUTH, [1] * 40)) == ("bad", "Worse than always predicting “circle”")


def test_model_equal_to_baseline_has_bad_verdict() -> None:
    assert kind_and_headline(metrics(TRUTH, [0] * 40)) == ("bad", "No better than always predicting “circle”")


def test_insignificant_improvement_has_no_good_verdict() -> None:
    kind, headline = kind_and_headline(metrics([0, 1, 2] * 3, [0, 1, 2, 0, 1, 0, 1, 2, 1]))
    assert (kind, headline) == ("warn", "Not clearly better than always predicting “circle”")


def test_verdict_uses_the_exact_binomial_test() -> None:
    # 14 of 20 differ from one half with p = 0.058, 15 of 20 with p = 0.021.
    def evaluation(hits: int) -> dict[str, Any]:
        truth = [0, 1] * 10
        return metrics(truth, [*truth[:hits], *(1 - label for label in truth[hits:])])

    result = verdict(report(evaluation(14)))
    assert (result.kind, result.headline) == ("warn", "Not clearly better than always predicting “circle”")
    assert "(exact binomial test, p = 0.058)" in result.reasons[1]
    assert kind_and_headline(evaluation(15))[0] == "good"


@pytest.mark.parametrize("loss", [5.6, None, math.inf])
def test_exploded_validation_loss_is_the_headline(loss: float | None) -> None:
    history = [*example()["history"], {**example()["history"][1], "validation:loss": loss}]
    result = verdict(report(GOOD, history=history))
    assert (result.kind, result.headline) == ("warn", "The validation loss exploded")
    html = page(report(GOOD, history=history))
    assert '<h1 class="verdict warn">The validation loss exploded' in html
    assert "No findings" not in html
    # Three classes have a loss of 1.1 by guessing; five times as much is an explosion.
    history[-1]["validation:loss"] = 5.4
    assert kind_and_headline(GOOD, history=history)[0] == "good"


def test_zero_recall_class_prevents_good_verdict() -> None:
    metrics_json = metrics([0] * 20 + [1] * 20 + [2] * 20, [0] * 20 + [1] * 20 + [1] * 20)
    assert kind_and_headline(metrics_json) == ("warn", "1 of 3 classes never recognized")


def test_class_without_evaluated_records_is_ignored() -> None:
    assert kind_and_headline(metrics([0, 1] * 20, [0, 1] * 20))[0] == "good"


@pytest.mark.parametrize(
    ("counts", "headline"),
    [
        ({"circle": 32, "star": 1, "triangle": 20}, "“circle” has 32 times as many training records as “star”"),
        ({"circle": 320, "star": 10, "triangle": 20}, "“circle” has 32 times as many training records as “star”"),
        ({"circle": 3, "star": 0, "triangle": 3}, "No training record of “star”"),
    ],
)
def test_strong_imbalance_prevents_good_verdict(counts: dict[str, int], headline: str) -> None:
    assert kind_and_headline(GOOD, training_counts=counts) == ("warn", headline)


def test_class_weights_compensate_imbalance() -> None:
    requested = {**example()["asked"], "effective": {"class_weights": "balanced"}}
    assert kind_and_headline(GOOD, training_counts={"circle": 32, "star": 1}, asked=requested)[0] == "good"


def test_verdict_does_not_depend_on_enabled_rules() -> None:
    metrics_json = metrics(TRUTH, [0] * 40)
    for rules in ([], ["Overfit"]):
        html = page(report(metrics_json, rules=rules))
        assert "No findings" not in html
        assert 'class="notice good"><b>No better' not in html
        assert '<h1 class="verdict bad">No better than always predicting' in html


def test_single_class_evaluation_is_reported() -> None:
    assert kind_and_headline(metrics([0] * 20, [0] * 20)) == ("warn", "Evaluated on a single class")


def test_multi_label_verdict_uses_f1() -> None:
    truth = [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]] * 5
    predicted = [[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1]] * 5
    result = verdict(report(multi_label_evaluation(truth, predicted)))
    assert (result.kind, result.headline) == ("good", "F1 76.9% on test")
    assert "correct for 25.0% of the records" in result.reasons[0]
    assert "mean average precision" in result.reasons[0]
    html = page(report(multi_label_evaluation(truth, predicted)))
    assert "mean average precision" in html
    assert "accuracy on test" not in html


def test_multi_label_below_baseline_has_bad_verdict() -> None:
    truth = [[1, 1, 0], [1, 0, 1], [1, 0, 0]] * 5
    assert kind_and_headline(multi_label_evaluation(truth, [[0, 0, 0]] * 15)) == (
        "bad",
        "Worse than always predicting “circle”",
    )


def test_only_unresolved_findings_prevent_good_verdict() -> None:
    finding = {"rule": "Overfit", "step": 12, "where": "epoch 3", "seen": "worse", "advice": "x.", "grave": False}
    assert kind_and_headline(GOOD, findings=[finding])[0] == "warn"
    resolved = {**finding, "resolved": "no longer the case after epoch 5"}
    assert kind_and_headline(GOOD, findings=[resolved])[0] == "good"
    html = page(report(GOOD, findings=[resolved]))
    assert "Overfit, step 12: resolved" in html
    assert "Next: x." not in html
    assert "No findings" in html


def test_failed_and_unevaluated_jobs_have_no_good_verdict() -> None:
    assert kind_and_headline(GOOD, failure="the loss became nan")[0] == "bad"
    assert kind_and_headline(GOOD, parts={}) == ("warn", "Not evaluated")
    assert "The job was stopped before its evaluation" in page(report(GOOD, parts={}))


def test_finished_job_without_held_out_records() -> None:
    result = verdict(report(GOOD, parts={}, job={"finished": True, "strategy": "full"}))
    assert (result.kind, result.headline) == ("warn", "Not evaluated")
    assert "validation_fraction" in result.reasons[0]
    assert "90.0%" in result.reasons[1]


def test_long_names_are_truncated_in_the_headline() -> None:
    names = ("x" * 500, "b")
    result = verdict(report(metrics([0] * 5 + [1], [1] * 6, names)))
    assert len(result.headline) < 100


def test_class_names_are_escaped() -> None:
    metrics_json = metrics([0] * 5, [1] * 5, (HOSTILE, "b"))

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: set[str] = set()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.add(tag)

    reader = Reader()
    reader.feed(page(report(metrics_json)))
    assert "script" not in reader.tags


@pytest.mark.parametrize(("share", "records"), [(0.0, 1), (1.0, 1), (0.5, 0), (0.69, 45)])
def test_wilson_interval_is_within_bounds(share: float, records: int) -> None:
    low, high = wilson_interval(share, records)
    assert 0 <= low <= share <= high <= 1
