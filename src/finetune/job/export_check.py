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
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.data.record import Record
from finetune.errors import DivergedError
from finetune.evaluation.predict import EvaluationResult, InferenceContext, Predictions, predict
from finetune.export.export import ArtifactContents, export
from finetune.export.verify import VerificationSample, tolerance_on, verify
from finetune.job.data.loaders import PROBE_RECORDS
from finetune.job.prepare import PreparedJob
from finetune.runtime.memory import release_freed_memory
from finetune.tasks.thresholds import ChosenThresholds

logger = logging.getLogger(__name__)

_WARNING_DIFFERENCE = 0.1


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
    samples = _samples_of_evaluation(job, evaluated) if evaluated else _samples_of_probe(job)
    texts = max((len(sample.content) for sample in samples if isinstance(sample.content, tuple)), default=1)
    thresholds, folder, inputs = decision.thresholds if decision else None, job.request.paths.model, job.inputs
    dialect = job.spec.dialect.name if job.spec.dialect else None
    contents = ArtifactContents(inputs.task_name, inputs.task.artifact_fields(), metrics, texts, thresholds, dialect)
    export(folder, job.backbone, contents)
    if samples:
        # The handler loads a second model while the job's own is still in memory.
        release_freed_memory()
        tolerance = tolerance_on(job.numerics.device.type)
        difference = verify(folder, samples, tolerance)
        logger.info(
            "The exported artifact repeats %d predictions; largest difference of a probability %.1e, tolerance %.0e",
            len(samples),
            difference,
            tolerance,
        )
    else:
        logger.warning("The exported artifact is not verified: no record can be read.")


def _samples_of_evaluation(job: PreparedJob, evaluated: EvaluationResult) -> list[VerificationSample]:
    """Samples spread over the evaluated part, with the evaluation's predictions, or float32 ones under autocast."""
    batches, predictions = evaluated.batches, evaluated.predictions
    records = batches.sample_records(predictions.positions.tolist(), PROBE_RECORDS)
    evaluated_samples = [_sample(record, predictions, row) for row, record in records]
    if job.numerics.autocast is None or job.loaders.rebatch is None or not records:
        return evaluated_samples
    reader = InMemoryReader(batches.channel, job.inputs.task_name, [record for _, record in records])
    float32 = _predict_in_float32(job, job.loaders.rebatch(reader))
    rows = {int(position): row for row, position in enumerate(float32.positions)}
    samples = [_sample(record, float32, rows[position]) for position, (_, record) in enumerate(records)]
    _log_difference(job.numerics.name, evaluated_samples, samples)
    return samples


def _samples_of_probe(job: PreparedJob) -> list[VerificationSample]:
    """A few records with float32 predictions, for jobs without a finished evaluation."""
    batches = job.loaders.probe or job.loaders.in_memory()
    if batches is None or not len(batches):
        return []
    predictions = _predict_in_float32(job, batches)
    records = batches.sample_records(predictions.positions.tolist(), PROBE_RECORDS)
    return [_sample(record, predictions, row) for row, record in records]


def _sample(record: Record, predictions: Predictions, row: int) -> VerificationSample:
    return VerificationSample(
        record.key, record.content, tuple(float(value) for value in predictions.probabilities[row])
    )


@dataclass(frozen=True, slots=True)
class _SingleRecordBatches:
    """Batches of one record, as in the handler: the last bits of a prediction depend on the batch size."""

    batches: Batches

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        """Yield one batch per record from index `first` on, until `PROBE_RECORDS` records could be decoded."""
        del share  # the main process alone checks the artifact
        decoded, count = 0, len(self.batches.dataset)
        for start in range(first, count, PROBE_RECORDS):
            for batch in self.batches.prepare(
                [[index] for index in range(start, min(start + PROBE_RECORDS, count))], epoch
            ):
                decoded += len(batch.targets)
                yield batch
            if decoded >= PROBE_RECORDS:
                return


def _predict_in_float32(job: PreparedJob, batches: Batches) -> Predictions:
    context = InferenceContext(job.numerics.device, nullcontext, lambda: False)
    predictions = predict(job.backbone, _SingleRecordBatches(batches), context, job.inputs.task)
    if predictions is None:
        raise RuntimeError("a prediction pass that cannot be interrupted was interrupted")
    if not np.isfinite(predictions.probabilities).all():
        raise DivergedError(
            "In float32, in which the artifact computes, the outputs of the model are not finite: weights became"
            " infinite. Lower learning_rate, or set gradient_clip_norm=1 or precision=fp32."
        )
    return predictions


def _log_difference(
    precision: str, evaluated: Sequence[VerificationSample], float32: Sequence[VerificationSample]
) -> None:
    """Log the largest difference between the evaluation's probabilities and the artifact's."""
    difference = max(
        (
            abs(rounded - exact)
            for low, full in zip(evaluated, float32, strict=True)
            for rounded, exact in zip(low.probabilities, full.probabilities, strict=True)
        ),
        default=0.0,
    )
    level = logging.WARNING if difference > _WARNING_DIFFERENCE else logging.INFO
    hint = "; precision=fp32 avoids it" if difference > _WARNING_DIFFERENCE else ""
    logger.log(
        level,
        "Evaluated in %s: probabilities of these records differ by up to %.1e from those of the artifact, which"
        " computes in fp32%s",
        precision,
        difference,
        hint,
    )
