"""The report's verdict is good only without evidence against the model."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from finetune.evaluation.metrics import classification_metrics
from finetune.monitoring.report import page, verdict
from finetune.monitoring.report.verdict import wilson
from tests.support.reports import HOSTILE, example

NAMES = ("circle", "star", "triangle")


def metrics(truth: list[int], told: list[int], names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    probabilities = np.full((len(truth), len(names)), 0.1)
    probabilities[np.arange(len(truth)), told] = 0.8
    return classification_metrics(np.array(truth), probabilities, names, multi_label=False)


def several(truth: list[list[int]], told: list[list[int]]) -> dict[str, Any]:
    return classification_metrics(np.array(truth), np.array(told) * 0.8 + 0.1, NAMES, multi_label=True)


def report(found: dict[str, Any], **changes: object) -> dict[str, Any]:
    """The report of a job without findings or data problems."""
    made = example() | {
        "findings": [], "machine_findings": [], "parts": {"test": found},
        "training_counts": dict.fromkeys(NAMES, 20), "rules": ["Overfit"],
        "duplicates": {"count": 0, "contradictions": 0, "leaks": [], "groups": []},
    }  # fmt: skip
    return made | changes


GOOD = metrics([0, 1, 2] * 20, [0, 1, 2] * 18 + [1, 2, 0] * 2)
TRUTH = [0] * 32 + [1] * 4 + [2] * 4


def kind_of(found: dict[str, Any], **changes: object) -> tuple[str, str]:
    said = verdict(report(found, **changes))
    return said.kind, said.headline


def test_a_sound_model_gets_a_good_verdict_with_its_uncertainty() -> None:
    said = verdict(report(GOOD))
    assert (said.kind, said.headline) == ("good", "90.0% right on test")
    assert "95% interval 80% to 95%" in said.reasons[0]
    assert "Nothing found" in page(report(GOOD))


def test_a_model_worse_than_a_guess_gets_a_bad_verdict() -> None:
    assert kind_of(metrics(TRUTH, [1] * 40)) == ("bad", "Worse than always answering “circle”")


def test_a_model_as_good_as_a_guess_gets_a_bad_verdict() -> None:
    assert kind_of(metrics(TRUTH, [0] * 40)) == ("bad", "No better than always answering “circle”")


def test_a_difference_from_a_guess_that_may_be_chance_gets_no_good_verdict() -> None:
    kind, headline = kind_of(metrics([0, 1, 2] * 3, [0, 1, 2, 0, 1, 0, 1, 2, 1]))
    assert (kind, headline) == ("warn", "Not clearly better than always answering “circle”")


def test_classes_with_zero_recall_get_no_good_verdict() -> None:
    found = metrics([0] * 20 + [1] * 20 + [2] * 20, [0] * 20 + [1] * 20 + [1] * 20)
    assert kind_of(found) == ("warn", "1 of 3 classes never recognized")


def test_a_class_without_evaluated_records_is_no_class_with_zero_recall() -> None:
    assert kind_of(metrics([0, 1] * 20, [0, 1] * 20))[0] == "good"


@pytest.mark.parametrize(
    ("counts", "headline"),
    [
        ({"circle": 32, "star": 1, "triangle": 20}, "“circle” has 32 times the training records of “star”"),
        ({"circle": 320, "star": 10, "triangle": 20}, "“circle” has 32 times the training records of “star”"),
        ({"circle": 3, "star": 0, "triangle": 3}, "No training record of “star”"),
    ],
)
def test_a_strong_imbalance_gets_no_good_verdict_whatever_the_number_of_records(
    counts: dict[str, int], headline: str
) -> None:
    assert kind_of(GOOD, training_counts=counts) == ("warn", headline)


def test_classes_that_the_loss_weighs_are_no_imbalance() -> None:
    asked = {**example()["asked"], "effective": {"class_weights": "balanced"}}
    assert kind_of(GOOD, training_counts={"circle": 32, "star": 1}, asked=asked)[0] == "good"


def test_the_verdict_does_not_depend_on_the_rules_that_were_asked_for() -> None:
    found = metrics(TRUTH, [0] * 40)
    for rules in ([], ["Overfit"]):
        drawn = page(report(found, rules=rules))
        assert "Nothing found" not in drawn
        assert 'class="notice good"><b>No better' not in drawn
        assert '<h1 class="verdict bad">No better than always answering' in drawn


def test_an_evaluation_on_one_class_says_so() -> None:
    assert kind_of(metrics([0] * 20, [0] * 20)) == ("warn", "Evaluated on a single class")


def test_multi_label_is_judged_by_f1_and_not_by_exact_matches() -> None:
    truth = [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]] * 5
    nearly = [[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1]] * 5
    said = verdict(report(several(truth, nearly)))
    assert (said.kind, said.headline) == ("good", "F1 76.9% on test")
    assert "25.0% of the records have exactly the right labels" in said.reasons[0]
    assert "mean average precision" in said.reasons[0]
    drawn = page(report(several(truth, nearly)))
    assert "mean average precision" in drawn
    assert "accuracy on test" not in drawn


def test_multi_label_below_a_constant_answer_gets_a_bad_verdict() -> None:
    truth = [[1, 1, 0], [1, 0, 1], [1, 0, 0]] * 5
    assert kind_of(several(truth, [[0, 0, 0]] * 15)) == ("bad", "Worse than always answering “circle”")


def test_findings_that_hold_get_no_good_verdict_and_resolved_ones_do() -> None:
    finding = {"rule": "Overfit", "step": 12, "where": "epoch 3", "seen": "worse", "advice": "x.", "grave": False}
    assert kind_of(GOOD, findings=[finding])[0] == "warn"
    resolved = {**finding, "resolved": "no longer the case after epoch 5"}
    assert kind_of(GOOD, findings=[resolved])[0] == "good"
    drawn = page(report(GOOD, findings=[resolved]))
    assert "Overfit, step 12: resolved" in drawn
    assert "Next: x." not in drawn
    assert "Nothing found" in drawn


def test_a_failed_job_and_a_job_without_evaluation_say_so() -> None:
    assert kind_of(GOOD, failure="the loss became nan")[0] == "bad"
    assert kind_of(GOOD, parts={}) == ("warn", "Not evaluated")
    assert "The job stopped before its evaluation" in page(report(GOOD, parts={}))


def test_a_finished_job_that_held_nothing_out_did_not_stop() -> None:
    said = verdict(report(GOOD, parts={}, job={"finished": True, "strategy": "full"}))
    assert (said.kind, said.headline) == ("warn", "Not evaluated")
    assert said.reasons == (
        "No records were held out. Give a channel test or validation, or a validation_fraction above 0.",
        "Accuracy on the training records is 90.0%, which says little.",
    )


def test_long_names_are_cut_in_the_headline() -> None:
    names = ("x" * 500, "b")
    said = verdict(report(metrics([0] * 5 + [1], [1] * 6, names)))
    assert len(said.headline) < 100


def test_names_of_classes_are_shown_and_never_run() -> None:
    found = metrics([0] * 5, [1] * 5, (HOSTILE, "b"))

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: set[str] = set()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.add(tag)

    reader = Reader()
    reader.feed(page(report(found)))
    assert "script" not in reader.tags


@pytest.mark.parametrize(("share", "records"), [(0.0, 1), (1.0, 1), (0.5, 0), (0.69, 45)])
def test_intervals_stay_within_their_bounds(share: float, records: int) -> None:
    low, high = wilson(share, records)
    assert 0 <= low <= share <= high <= 1
