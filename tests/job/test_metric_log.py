"""Metrics are found in real logs, also after sagemaker-training has processed the output line by line."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from finetune.monitoring.metric_lines import METRICS
from tests.support.whole_jobs import FinishedJob

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metric_definitions.json"


def handled(log: str) -> None:
    """Print a log as sagemaker-training prints the output of a user's process."""
    from sagemaker_training import process

    async def feed() -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(log.encode())
        stream.feed_eof()
        await process.watch(stream, 1, "UnknownError")

    asyncio.run(feed())


@pytest.mark.parametrize("by_toolkit", [False, True])
def test_every_metric_definition_matches(
    first_job: FinishedJob, by_toolkit: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    log = first_job.log
    if by_toolkit:
        handled(first_job.log)
        log = capsys.readouterr().out
    metrics = first_job.metrics()
    history = metrics["job"]["history"]
    defined = json.loads(DOCUMENT.read_text("utf-8"))["metric_definitions"]
    for metric, entry in zip(METRICS, defined, strict=True):
        values = [float(value) for value in re.findall(entry["Regex"], log)]
        if metric.multi_label:
            assert values == []
            continue
        epochs = [round(row[metric.name], 6) for row in history] if metric.every_epoch else []
        assert values[: len(epochs)] == epochs
        # The final metrics are those of the exported weights: training data is not re-evaluated, and there is no test
        # channel.
        assert len(values) - len(epochs) == (1 if metric.name.startswith("validation") else 0)
    for name in ("loss", "accuracy"):
        assert re.findall(rf"validation:{name}=(\S+);", log)[-1] == f"{metrics['validation'][name]:.6f}"
