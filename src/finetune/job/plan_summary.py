"""Plan summary gathered from all stages, and log lines during training."""

from __future__ import annotations

import logging
import os

from torch import Tensor

from finetune.config.hyperparameters import JobSpec, RunSpec
from finetune.features.plan import CachePlan
from finetune.job.inputs import Inputs, class_counts
from finetune.job.loaders import Loaders
from finetune.job.plan_text import DataSummary, GroupSummary, RunSummary, plan_text
from finetune.job.request import Request
from finetune.job.savings import feature_lines, picture_lines
from finetune.job.unused_hyperparameters import idle_remarks
from finetune.messages import Lines
from finetune.models.backbone import Backbone, ImageInput
from finetune.monitoring.metric_lines import metric_line
from finetune.monitoring.progress import ProgressLogger, format_duration
from finetune.monitoring.waiting import DataWait, waiting_line
from finetune.runtime.device import device_lines
from finetune.runtime.precision import Numerics
from finetune.strategies.plan import Phase, Plan
from finetune.training.run_history import RunHistoryFile, process_age
from finetune.training.state import EpochMetrics, TrainingState
from finetune.training.trainer import steps_per_epoch

logger = logging.getLogger(__name__)


def describe_plan(
    inputs: Inputs, backbone: Backbone, plan: Plan, loaders: Loaders, request: Request, numerics: Numerics
) -> Lines:
    """Describe the plan before the first step."""
    spec = request.spec
    records: dict[str, int | None] = {name: len(part.indices) for name, part in inputs.parts().items()}
    records |= {name: part.count for name, part in inputs.streams.items()}
    classes = _classes(inputs)
    data = DataSummary(
        inputs.task + (", several labels per record" if inputs.labels.multi_label else ""), records, classes
    )
    network = f"{backbone.name}, {expected_input(backbone)}"
    frozen = CachePlan(backbone, plan, spec, numerics)
    lines = [
        *_run_lines(loaders, spec, numerics),
        *_checkpoint_lines(request, loaders),
        *feature_lines(frozen, len(records), counted=records.get("train") is not None),
        *picture_lines(frozen, inputs),
        *(f"remark    {remark}" for remark in idle_remarks(request, inputs, frozen)),
    ]
    return plan_text(data, group_summaries(backbone, plan), RunSummary(network, backbone.weights.words, lines))


def _classes(inputs: Inputs) -> dict[str, int]:
    """Number of records of every class; all 0 if they were not counted."""
    stream = inputs.streams.get("train")
    if stream is not None:
        return dict(zip(inputs.labels.names, stream.class_counts or (0,) * len(inputs.labels), strict=True))
    counted = inputs.train or inputs.validation or inputs.test
    return class_counts(counted, inputs.labels) if counted else dict.fromkeys(inputs.labels.names, 0)


def expected_input(backbone: Backbone) -> str:
    """Description of the model's input."""
    expects = backbone.expects
    if isinstance(expects, ImageInput):
        return f"pictures of {expects.size} x {expects.size}"
    return f"texts of up to {expects.max_length} tokens"


def group_summaries(backbone: Backbone, plan: Plan) -> list[GroupSummary]:
    """Size, learning rate and first epoch of every layer group."""
    sizes = {name: parameter.numel() for name, parameter in backbone.module.named_parameters()}
    first = {name: phase.first_epoch for phase in reversed(plan.phases) for name in phase.trainable}
    return [
        GroupSummary(g.name, sum(sizes[n] for n in g.parameters), plan.rates.get(g.name), first.get(g.name))
        for g in backbone.layer_groups()
    ]


def _run_lines(loaders: Loaders, spec: JobSpec, numerics: Numerics) -> list[str]:
    arithmetic = numerics.name + (", compiled" if spec.run.compile else "")
    device = device_lines(numerics.device, arithmetic)
    if loaders.train is None or spec.strategy.name == "evaluate":
        return [*device, "steps     none: the network is evaluated as it is"]
    optimisation = spec.optimisation
    per_epoch = steps_per_epoch(loaders.train.batches_per_epoch or 0, optimisation.gradient_accumulation_steps)
    batch = f"{optimisation.batch_size}"
    if optimisation.gradient_accumulation_steps > 1:
        batch += f" x {optimisation.gradient_accumulation_steps}"
    total = f"{optimisation.epochs * per_epoch:,}: {optimisation.epochs} epochs of {per_epoch:,}"
    if not per_epoch:
        total = f"as many as {optimisation.epochs} epochs of the stream have"
    return [
        *device,
        f"steps     {total}, {batch} records each; {optimisation.optimizer}, {optimisation.lr_schedule} schedule",
    ]


def _checkpoint_lines(request: Request, loaders: Loaders) -> list[str]:
    spec, folder = request.spec.checkpoint, request.checkpoint_folder()
    if loaders.train is None or request.spec.strategy.name == "evaluate":
        return []
    if folder is None:
        return [
            "resuming  checkpoints: none, since the job has no folder for them: after an interruption, as of spot"
            " capacity, it starts from the beginning; give the estimator a checkpoint_s3_uri"
        ]
    often = [f"every {spec.interval_steps} steps"] if spec.interval_steps is not None else []
    often += [f"every {spec.interval_seconds:g} s at most"] if spec.interval_seconds is not None else []
    copied = f", copied to {spec.s3_uri}" if spec.s3_uri is not None else ""
    when = ", ".join([*often, "after epochs that are long enough", "on SIGTERM and at the end"])
    return [f"resuming  checkpoints in {folder}{copied}: {when}; resume={spec.resume}"]


class LogObserver:
    """Logs a line per epoch and progress within long ones, and updates the run history after every step."""

    def __init__(self, pace: ProgressLogger, book: RunHistoryFile, loaders: Loaders, spec: RunSpec) -> None:
        self._pace = pace
        self._book = book
        self._loaders = loaders
        self._spec = spec
        self._waited_before = 0.0
        self._records_before = 0
        self._is_first = True

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Log the trainable groups when they change."""
        epoch = state.progress.epoch
        if phase.first_epoch == epoch and epoch > 0:
            logger.info("epoch %d: now learning: %s", epoch + 1, ", ".join(phase.trainable))
        self._pace.begin(epoch, state.progress.step_in_epoch)
        self._records_before = state.totals.records
        self._waited_before = self._loaders.waited()

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Log the progress within the epoch when it is due."""
        del loss
        self._book.step_done(state.progress.step)
        if self._is_first:
            self._is_first = False
            logger.info("first batch trained %.1f s after the start of the process", process_age())
        if self._pace.due():
            done = state.totals.records - self._records_before
            self._pace.update(state.progress.step_in_epoch, done, state.totals.means()["loss"])

    def epoch_done(self, epoch: int, row: EpochMetrics, history: list[EpochMetrics]) -> None:
        """Log the metrics of an epoch, its duration, and time lost waiting for batches."""
        del history
        logger.info("%s", metric_line(epoch, row))
        seconds = self._pace.seconds()
        logger.info("epoch %d took %s", epoch + 1, format_duration(seconds))
        train = self._loaders.train
        waited, asked = self._loaders.waited() - self._waited_before, self._spec.workers is not None
        size = train.prefetcher.size if train else 0
        line = waiting_line(epoch, DataWait(waited, seconds, size, len(os.sched_getaffinity(0)), asked))
        if line:
            logger.info("%s", line)
