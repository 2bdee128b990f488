"""Runs a model over records, and returns probabilities and loss."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.loading.batches import Batch, BatchSource
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.distributed.shares import EveryNthBatch
from finetune.distributed.world import World
from finetune.errors import JobStopped
from finetune.models.backbone import Backbone, Outputs
from finetune.runtime.computations import computing
from finetune.tasks.epoch_metric import epoch_metric
from finetune.tasks.task import Probabilities, Targets, Task
from finetune.tasks.thresholds import ThresholdTarget

Forward = Callable[[Mapping[str, Tensor]], Outputs]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of a model for the records of a data set.

    Attributes:
        positions: `[records]`, indices in the data set; records that could not be decoded are missing.
        targets: `[records, ...]`, as built by the label map.
        probabilities: float32 `[records, outputs]`.
        loss: mean loss, without smoothing or class weights.
    """

    positions: NDArray[np.int64]
    targets: Targets
    probabilities: Probabilities
    loss: float

    def validation_row(
        self, task: Task, best_metric: str = "accuracy", target: ThresholdTarget | None = None
    ) -> dict[str, float]:
        """Metrics of an epoch: `validation:loss`, those of the task, such as `validation:accuracy`, and `best_metric`.

        Args:
            task: The task.
            best_metric: Metric that determines the best epoch; missing in the result if it is undefined.
            target: Target precision or recall, if the metric depends on it.
        """
        metrics = {"loss": self.loss, **task.validation_metrics(self.targets, self.probabilities)}
        if best_metric not in metrics:
            value = epoch_metric(task, best_metric, self.targets, self.probabilities, target)
            metrics |= {} if value is None else {best_metric: value}
        return {f"validation:{name}": value for name, value in metrics.items()}


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Predictions for one part of the data, with the batches that were evaluated."""

    batches: BatchSource
    predictions: Predictions


@dataclass(frozen=True, slots=True)
class ShardedPasses:
    """Forward passes of a model whose parameters are sharded: all processes make the same number of them.

    Attributes:
        run: runs a forward pass of the model or a part of it.
        example: inputs for a process that has no batch while others have one; the outputs are ignored.
    """

    run: Callable[[Forward, Mapping[str, Tensor]], Outputs]
    example: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class InferenceContext:
    """Device, precision and stop request of forward passes without training.

    Attributes:
        device: device of the model.
        autocast: returns a context manager for each forward pass, such as `torch.autocast`.
        interrupted: called before each batch.
        world: the processes that evaluate together; each of them computes some of the batches.
        sharded: how to run a sharded model; `None` for a model that is whole in each process.
    """

    device: torch.device
    autocast: Callable[[], AbstractContextManager[object]]
    interrupted: Callable[[], bool]
    world: World = field(default_factory=World)
    sharded: ShardedPasses | None = None


class Source(Protocol):
    """Batches in the order of the data set."""

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        """Yield this process's share in the batches of an epoch, starting at index `first`."""
        ...


def predict(
    backbone: Backbone, batches: Source, context: InferenceContext, task: Task, forward: Forward | None = None
) -> Predictions | None:
    """Run the model in evaluation mode over every record; `None` when any process is interrupted.

    The result of several processes is in the main process; the others get the part that they computed. The model is
    left in evaluation mode: a training caller sets the mode and the gradient flags again.

    Args:
        backbone: the model.
        batches: batches of the records.
        context: device, precision and stop request.
        task: loss and probabilities of the outputs.
        forward: the part of the model that takes the batches as input; `None` for the whole model.
    """
    outputs = _collect_outputs(backbone, batches, context, forward or backbone.forward)
    return None if outputs is None else _predictions(outputs, task)


@dataclass(frozen=True, slots=True)
class PredictedClasses:
    """The most probable class of each record, for a model that may lack classes of the data set.

    Attributes:
        targets: int64 `[records]`, class indices of the data set.
        classes: int64 `[records]`, output indices of the model.
    """

    targets: NDArray[np.int64]
    classes: NDArray[np.int64]


def predict_classes(backbone: Backbone, batches: Source, context: InferenceContext) -> PredictedClasses | None:
    """Run the model in evaluation mode over every record of a single-label data set; `None` when interrupted.

    No loss is computed: the data set may have classes for which the model has no output.
    """
    outputs = _collect_outputs(backbone, batches, context, backbone.forward)
    if outputs is None:
        return None
    if not len(outputs.positions):
        return PredictedClasses(np.empty(0, np.int64), np.empty(0, np.int64))
    return PredictedClasses(outputs.targets.numpy(), outputs.logits.argmax(dim=1).numpy())


class _Outputs(NamedTuple):
    """Outputs by record, in any order.

    Attributes:
        positions: int64 `[records]`.
        logits: float32 `[records, outputs]`, on the host; `[0]` without records.
        targets: `[records, ...]`, on the host; `[0]` without records.
    """

    positions: NDArray[np.int64]
    logits: Tensor
    targets: Tensor


def _collect_outputs(
    backbone: Backbone, batches: Source, context: InferenceContext, forward: Forward
) -> _Outputs | None:
    outputs: _Outputs | None = None
    failure: Exception | None = None
    try:
        outputs = _forward_all(backbone, batches, context, forward)
    except JobStopped:
        pass
    except Exception as error:
        if context.sharded is not None:
            raise  # the other processes wait for a forward pass of this one
        failure = error  # raised below, in all processes
    context.world.raise_in_all(failure)
    if context.world.any(outputs is None) or outputs is None:
        return None
    parts = [part for part in context.world.gather(outputs) if len(part.positions)] or [outputs]
    positions, logits, targets = zip(*parts, strict=True)
    return _Outputs(np.concatenate(positions), torch.cat(logits), torch.cat(targets))


def _forward_all(backbone: Backbone, batches: Source, context: InferenceContext, forward: Forward) -> _Outputs:
    backbone.module.eval()
    positions: list[int] = []
    logits: list[Tensor] = [torch.empty(0)]
    targets: list[Tensor] = [torch.empty(0)]
    share: Share = EveryNthBatch(context.world) if context.world.size > 1 else WHOLE_BATCHES
    sharded = context.sharded
    iterator = batches.iterate(0, 0, share)
    with closing(iterator), torch.no_grad():
        for batch in _own_batches(iterator, context) if sharded is None else _in_lockstep(iterator, context):
            inputs = {} if batch is None else batch.inputs
            inputs = {name: tensor.to(context.device, non_blocking=True) for name, tensor in inputs.items()}
            with computing("an evaluation batch"), context.autocast():
                if sharded is None:
                    batch_logits = forward(inputs).logits
                else:
                    batch_logits = sharded.run(forward, inputs or sharded.example).logits
            if batch is None:
                continue
            positions.extend(batch.positions)
            logits.append(batch_logits.float())
            targets.append(batch.targets)
    first = 1 if positions else 0
    return _Outputs(np.asarray(positions, np.int64), torch.cat(logits[first:]).cpu(), torch.cat(targets[first:]).cpu())


def _own_batches(batches: Iterator[Batch], context: InferenceContext) -> Iterator[Batch]:
    """Yield the batches with records.

    Raises:
        JobStopped: this process is interrupted.
    """
    for batch in batches:
        if context.interrupted():
            raise JobStopped
        if len(batch.targets):
            yield batch


def _in_lockstep(batches: Iterator[Batch], context: InferenceContext) -> Iterator[Batch | None]:
    """Yield the batches with records; `None` for each further pass that other processes need.

    Raises:
        JobStopped: any process is interrupted; all of them make the same number of passes before.
    """
    own = _own_batches(batches, context)
    while True:
        batch, stopped = None, False
        try:
            batch = next(own, None)
        except JobStopped:
            stopped = True
        stopping, busy = context.world.sum_integers([int(stopped), int(batch is not None)])
        if stopping:
            raise JobStopped
        if not busy:
            return
        yield batch


def _predictions(outputs: _Outputs, task: Task) -> Predictions:
    positions, logits, targets = outputs
    if not len(positions):
        return Predictions(positions, np.empty(0, np.int64), np.empty((0, 0), np.float32), float("nan"))
    # Length-grouped batches, and those of several processes, are not in the order of the data set.
    order = np.argsort(positions, kind="stable")
    if (np.diff(order) != 1).any():
        rows = torch.from_numpy(order)
        positions, logits, targets = positions[order], logits[rows], targets[rows]
    loss, probabilities = task.mean_loss(logits, targets), task.probabilities(logits)
    return Predictions(positions, targets.numpy(), probabilities.numpy(), loss)
