"""Logs metrics in the form of the tool whose request a job reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from finetune.job.prepare import PreparedJob
from finetune.monitoring.dialect_lines import DialectLines
from finetune.monitoring.metric_lines import final_line, final_values
from finetune.training.saved_state.run_history import process_age

logger = logging.getLogger(__name__)


def dialect_lines(job: PreparedJob) -> DialectLines:
    """Return the metric lines of the job's dialect."""
    dialect = job.spec.dialect
    return DialectLines(dialect.name if dialect else None, job.request.files.resources.current_host)


def log_final_metrics(job: PreparedJob, metrics: Mapping[str, Mapping[str, object]], epochs: int) -> None:
    """Log all metrics of the exported weights.

    Args:
        job: the job.
        metrics: metrics by part.
        epochs: number of finished epochs.
    """
    logger.info("%s", final_line(metrics) or "Nothing was evaluated.")
    for line in dialect_lines(job).final(epochs, final_values(metrics), process_age()):
        logger.info("%s", line)
