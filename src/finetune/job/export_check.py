"""Checks that the exported artifact predicts the same as the model that was trained and evaluated.

The handler in the artifact computes in float32. If the job computes in another precision, the model predicts the few
checked records again in float32: rounding to bf16 may change a probability by more than a fault would.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from finetune.data.in_memory import InMemoryReader
from finetune.data.loading.batches import Batch, Batches
from finetune.data.record import Record
from finetune.errors import DivergedError
from finetune.evaluation.predict import EvaluationResult, Pass, Predictions, predict
from finetune.evaluation.thresholds import ChosenThresholds
from finetune.export.export import ArtifactContents, export
from finetune.export.verify import VerificationSample, tolerance_on, verify
from finetune.job.loaders import PROBE_RECORDS
from finetune.job.prepare import PreparedJob
from finetune.runtime.memory import release_freed_memory

logger = logging.getLogger(__name__)

_WORTH_A_WARNING = 0.1


def export_and_verify(
    job: PreparedJob,
    metrics: Mapping[str, object],
    decision: ChosenThresholds | None,
    evaluated: EvaluationResult | None,
) -> None:
    """Export the artifact and compare its handler's predictions for a few records with the model's.

    Args:
        job: the prepared job.
        metrics: JSON values for the artifact, without NaN.
        decision: thresholds for the artifact's handler; `None` for the default of 0.5.
        evaluated: the evaluation to take the compared predictions from; without one, any available records are used.

    Raises:
        PlatformError: the folder cannot be written.
        ArtifactMismatch: the artifact's predictions differ.
    """
    samples = _of_evaluation(job, evaluated) if evaluated else _of_probe(job)
    texts = max((len(sample.content) for sample in samples if isinstance(sample.content, tuple)), default=1)
    thresholds, labels, folder = decision.thresholds if decision else None, job.inputs.labels, job.request.paths.model
    contents = ArtifactContents(job.inputs.task, labels.names, labels.multi_label, metrics, texts, thresholds)
    export(folder, job.backbone, contents)
    if samples:
        # The handler loads a second model while the job's own is still in memory.
        release_freed_memory()
        tolerance = tolerance_on(job.numerics.device.type)
        difference = verify(folder, samples, tolerance)
        logger.info(
            "The exported artifact repeats %d predictions; largest difference of a probability %.1e, allowed %.0e",
            len(samples),
            difference,
            tolerance,
        )
    else:
        logger.warning("The exported artifact is not proven: there is no record that can be read.")


def _of_evaluation(job: PreparedJob, evaluated: EvaluationResult) -> list[VerificationSample]:
    """Samples spread over the evaluated part, with the evaluation's predictions, or float32 ones under autocast."""
    batches, predictions = evaluated.batches, evaluated.predictions
    found = batches.sample_records(predictions.positions.tolist(), PROBE_RECORDS)
    said = [_sample(record, predictions, row) for row, record in found]
    if job.numerics.autocast is None or job.loaders.rebatch is None or not found:
        return said
    records = [record for _, record in found]
    again = _in_float32(job, job.loaders.rebatch(InMemoryReader(batches.channel, job.inputs.task, records)))
    by_position = {int(position): row for row, position in enumerate(again.positions)}
    exact = [_sample(record, again, by_position[at]) for at, record in enumerate(records)]
    _tell_difference(job.numerics.name, said, exact)
    return exact


def _of_probe(job: PreparedJob) -> list[VerificationSample]:
    """A few records with float32 predictions, for jobs without a finished evaluation."""
    batches = job.loaders.probe or job.loaders.kept()
    if batches is None or not len(batches):
        return []
    predictions = _in_float32(job, batches)
    found = batches.sample_records(predictions.positions.tolist(), PROBE_RECORDS)
    return [_sample(record, predictions, row) for row, record in found]


def _sample(record: Record, predictions: Predictions, row: int) -> VerificationSample:
    return VerificationSample(
        record.key, record.content, tuple(float(value) for value in predictions.probabilities[row])
    )


@dataclass(frozen=True, slots=True)
class _OneByOne:
    """Batches of one record, as in the handler: the last bits of a prediction depend on the batch size."""

    batches: Batches

    def iterate(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield one batch per record from index `first` on, until `PROBE_RECORDS` records could be decoded."""
        good, count = 0, len(self.batches.dataset)
        for start in range(first, count, PROBE_RECORDS):
            for batch in self.batches.prepare([[at] for at in range(start, min(start + PROBE_RECORDS, count))], epoch):
                good += len(batch.targets)
                yield batch
            if good >= PROBE_RECORDS:
                return


def _in_float32(job: PreparedJob, batches: Batches) -> Predictions:
    predictions = predict(job.backbone, _OneByOne(batches), Pass(job.numerics.device, nullcontext, lambda: False))
    if predictions is None:
        raise RuntimeError("a pass that nobody interrupts was interrupted")
    if not np.isfinite(predictions.probabilities).all():
        raise DivergedError(
            "In float32, in which the artifact computes, the network's answers are not finite numbers: weights have"
            " become infinite. Lower learning_rate, or set gradient_clip_norm=1 or precision=fp32."
        )
    return predictions


def _tell_difference(precision: str, said: Sequence[VerificationSample], exact: Sequence[VerificationSample]) -> None:
    """Log the largest difference between the evaluation's probabilities and the artifact's."""
    difference = max(
        (
            abs(one - other)
            for rounded, full in zip(said, exact, strict=True)
            for one, other in zip(rounded.probabilities, full.probabilities, strict=True)
        ),
        default=0.0,
    )
    level = logging.WARNING if difference > _WORTH_A_WARNING else logging.INFO
    hint = "; with precision=fp32 they are the same" if difference > _WORTH_A_WARNING else ""
    logger.log(
        level,
        "Evaluated in %s, a probability of these records differs by up to %.1e from the artifact's, which computes in"
        " fp32%s",
        precision,
        difference,
        hint,
    )
