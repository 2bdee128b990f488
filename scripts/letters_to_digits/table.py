"""The final table: cost and accuracy of each strategy."""

from __future__ import annotations

from collections.abc import Mapping

from letters_to_digits.jobs import Outcome

BASELINE = "from_scratch"
_ROW = "{:<20}{:>22}{:>10}{:>12}{:>20}"


def comparison(outcomes: Mapping[str, Outcome]) -> str:
    """Format one line per strategy.

    Args:
        outcomes: by strategy; each was evaluated on a channel `test`.
    """
    baseline = outcomes.get(BASELINE)
    lines = [_ROW.format("strategy", "trainable parameters", "seconds", "accuracy", f"over {BASELINE}")]
    lines.append("-" * len(lines[0]))
    for strategy, outcome in outcomes.items():
        accuracy = outcome.accuracy["test"]
        gain = "" if baseline is None or strategy == BASELINE else f"{accuracy - baseline.accuracy['test']:+.3f}"
        cost = f"{outcome.trainable_parameters:,}", f"{outcome.seconds:.1f}"
        lines.append(_ROW.format(strategy, *cost, f"{accuracy:.3f}", gain).rstrip())
    return "\n".join(lines)
