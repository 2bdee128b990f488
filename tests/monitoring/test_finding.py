"""Findings keep the keys of checkpoints and of `report.json`."""

from __future__ import annotations

import pytest

from finetune.monitoring.rules.finding import Finding

VALUES = {
    "rule": "Overfit",
    "step": 12,
    "where": "epoch 3",
    "seen": "the validation loss rose",
    "advice": "set weight_decay=0.1.",
    "grave": True,
}


def test_finding_is_restored_from_json() -> None:
    finding = Finding.from_json(VALUES)
    assert (finding.location, finding.observation, finding.severe) == ("epoch 3", "the validation loss rose", True)
    assert finding.as_json() == {**VALUES, "resolved": None}
    assert Finding.from_json(finding.as_json()) == finding


@pytest.mark.parametrize("changes", [{"grave": "yes"}, {"step": 1.5}, {"seen": None}, {"resolved": 1}, {"other": "x"}])
def test_invalid_values_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="finding"):
        Finding.from_json(VALUES | changes)
