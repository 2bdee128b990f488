"""Training state to checkpoint: named stateful parts, without anything that is a function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from finetune.checkpoint.state import check_count, check_structure
from finetune.monitoring.score import METRIC_LABELS, rank_of
from finetune.tasks.task import Task
from finetune.training.saved_state.averaged_weights import AveragedWeights
from finetune.training.saved_state.averaging import Averaging
from finetune.training.saved_state.trainable_state import OptimizerState, State, TrainableWeights

EpochMetrics = dict[str, float]


class Stateful(Protocol):
    """Object whose state can be saved and restored."""

    def state_dict(self) -> State:
        """Return tensors and plain values, arbitrarily nested."""
        ...

    def load_state_dict(self, state: State, /) -> object:
        """Restore the result of `state_dict`."""
        ...


class StreamState(Stateful, Protocol):
    """Position in a stream."""

    @property
    def mark(self) -> tuple[int, int]:
        """Number and checksum of the records used in the epoch, in order."""
        ...

    def compare(self, marks: Sequence[tuple[int, int]]) -> None:
        """Compare the marks of all hosts, or keep them.

        Raises:
            DataError: The hosts do not read the same records in the same order, although they should.
        """
        ...

    def begin_step(self) -> None:
        """Remember the position before the records of an optimizer step."""
        ...

    def undo_step(self) -> None:
        """Return to the position before the records of a step that is not done."""
        ...


@dataclass(slots=True)
class Progress:
    """Progress of the job.

    Attributes:
        epoch: Finished epochs, including their evaluation.
        step: Optimizer steps done in the whole job.
        step_in_epoch: Optimizer steps done in the current epoch.
        stopped_early: Whether training ended because the validation metric stopped improving.
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    stopped_early: bool = False

    def state_dict(self) -> State:
        """Return plain values."""
        return asdict(self)

    def load_state_dict(self, state: State, /) -> None:
        """Restore plain values.

        Raises:
            ValueError: The values do not have the expected form.
        """
        check_structure(state, asdict(self), "progress")
        for name in ("epoch", "step", "step_in_epoch"):
            check_count(state[name], name)
        for name in asdict(self):
            setattr(self, name, state[name])


class EpochTotals:
    """Sums over the records of the current epoch, kept on the device to avoid synchronizing in each step.

    Args:
        device: Device of the model.
        task: Defines what is counted.
    """

    def __init__(self, device: torch.device, task: Task) -> None:
        self.task = task
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.counts = {
            name: torch.zeros(shape, dtype=torch.int64, device=device) for name, shape in task.count_shapes.items()
        }
        self.records = 0

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: sum of its losses, its logits and targets."""
        self.loss += loss
        for name, count in self.task.count(logits, targets).items():
            self.counts[name] += count
        self.records += len(targets)

    @property
    def size(self) -> int:
        """Number of elements of `sums`."""
        return 1 + sum(count.numel() for count in self.counts.values())

    def sums(self) -> Tensor:
        """Return the sum of the losses and all counts, float64 `[size]`, on the device."""
        return torch.cat([self.loss.view(1), *(count.double().flatten() for count in self.counts.values())])

    def add_sums(self, sums: Tensor, records: int) -> None:
        """Add the `sums` of other totals, over `records` records."""
        loss, *counts = torch.split(sums, [1, *(count.numel() for count in self.counts.values())])
        self.loss += loss[0]
        for count, added in zip(self.counts.values(), counts, strict=True):
            count.add_(added.view_as(count).to(count.dtype))
        self.records += records

    def clear(self) -> None:
        """Reset for a new epoch."""
        self.loss.zero_()
        for count in self.counts.values():
            count.zero_()
        self.records = 0

    def means(self) -> EpochMetrics:
        """Return the mean loss and the metrics of the task so far; synchronizes with the device."""
        loss = float(self.loss) / max(1, self.records)
        return {"loss": loss, **self.task.training_metrics(self.counts, self.records)}

    def state_dict(self) -> State:
        """Return tensors and a count."""
        return {"loss": self.loss, **self.counts, "records": self.records}

    def load_state_dict(self, state: State, /) -> None:
        """Restore tensors and a count.

        Raises:
            ValueError: The values do not have the expected form.
        """
        check_structure(state, self.state_dict(), "totals")
        check_count(state["records"], "records")
        self.loss.copy_(state["loss"])
        for name, count in self.counts.items():
            count.copy_(state[name])
        self.records = state["records"]


@dataclass(slots=True)
class BestEpoch:
    """Best epoch so far by a validation metric, then by the lower validation loss, then the earlier one.

    Attributes:
        keep: Whether to copy the weights, which are exported.
        metric: Metric, see `monitoring.score`.
        epoch: Best epoch, from 0; -1 before the first.
        score: Its metric, negated for `loss`.
        improved: Last epoch whose score exceeded that of the previously improved epoch by more than `min_delta`; as
            long as the score is 0, the last epoch with a lower loss.
        reference: Score of the epoch `improved`.
        weights: Its weights, in the memory of the host.
        average: Name of the average of weights that is better than every epoch; empty if there is none.
        solved_records: If epoch 0 is a solved head that only clearly better weights replace: the number of validation
            records, on which the noise of the metric depends. Otherwise 0.
    """

    keep: bool
    metric: str = "accuracy"
    epoch: int = -1
    score: float = float("-inf")
    accuracy: float = float("-inf")
    loss: float = float("inf")
    improved: int = -1
    reference: float = float("-inf")
    weights: dict[str, Tensor] = field(default_factory=dict)
    average: str = ""
    solved_records: int = 0

    _SCALARS: ClassVar = ("epoch", "score", "accuracy", "loss", "improved", "reference")

    def update(
        self, row: Mapping[str, float], epoch: int, weights: TrainableWeights, min_delta: float, average: str = ""
    ) -> None:
        """Update with the validation metrics of an epoch, or of an average of weights; copy the weights if best."""
        score, negated_loss = rank_of(row, self.metric)
        learns_nothing_yet = self.metric != "loss" and score <= 0
        if score > self.reference + min_delta or (learns_nothing_yet and negated_loss > -self.loss):
            self.improved, self.reference = epoch, score
        if self.epoch >= 0 and (score, negated_loss) <= (self.score, -self.loss):
            return
        if self.solved_records and self.epoch == 0 and score <= self.score + self._noise():
            return
        self.epoch, self.score, self.accuracy, self.loss = epoch, score, row["validation:accuracy"], -negated_loss
        self.average = average
        if self.keep:
            # On the host, as the device may have no memory left; in the layout of the original.
            self.weights = {name: _host_copy(tensor) for name, tensor in weights.state_dict().items()}

    def _noise(self) -> float:
        """Return half the standard error of a share like the score; 0 for losses."""
        if self.metric == "loss":
            return 0.0
        share = min(1.0, max(0.0, self.score))
        return 0.5 * math.sqrt(share * (1 - share) / self.solved_records)

    def state_dict(self) -> State:
        """Return tensors by name and plain values."""
        scalars = {name: getattr(self, name) for name in self._SCALARS}
        average = {"average": self.average} if self.average else {}
        return {**scalars, **average, "weights": dict(self.weights)}

    def load_state_dict(self, state: State, /) -> None:
        """Restore tensors and plain values.

        Raises:
            ValueError: The values do not have the expected form.
        """
        state = dict(state)
        average = state.pop("average", "")
        check_structure({**state, "weights": {}}, {**self.state_dict(), "weights": {}}, "best")
        for name in self._SCALARS:
            setattr(self, name, state[name])
        self.average = str(average)
        self.weights = dict(state["weights"])
        if self.keep and self.epoch >= 0 and not self.weights:
            # Earlier versions kept weights only for early stopping: choose among the remaining epochs.
            self.epoch, self.score, self.accuracy, self.loss = -1, float("-inf"), float("-inf"), float("inf")


def _host_copy(tensor: Tensor) -> Tensor:
    """Copy a tensor to the memory of the host; one on the meta device, whose content is elsewhere, stays there."""
    return tensor.detach().clone() if tensor.is_meta else tensor.detach().to("cpu", copy=True)


@dataclass(slots=True)
class History:
    """Metrics of all finished epochs.

    Attributes:
        rows: Metrics by epoch; a solved head has a single one.
        solution: How the head was solved (`solver.head.Solution.as_json`, `solver.baselines.Baselines`); `None` if it
            was not.
        averages: Validation metrics of averages of weights by name, after the last epoch.
    """

    rows: list[EpochMetrics] = field(default_factory=list)
    solution: dict[str, Any] | None = None
    averages: dict[str, EpochMetrics] = field(default_factory=dict)

    def state_dict(self) -> State:
        """Return plain values."""
        state: State = {"rows": [dict(row) for row in self.rows]}
        if self.solution is not None:
            state["solution"] = self.solution
        if self.averages:
            state["averages"] = {name: dict(row) for name, row in self.averages.items()}
        return state

    def load_state_dict(self, state: State, /) -> None:
        """Restore plain values.

        Raises:
            ValueError: The values do not have the expected form.
        """
        rows = [dict(row) for row in state["rows"]]
        for epoch, row in enumerate(rows):
            names = {"train:loss", "train:accuracy"}
            names |= {"validation:loss", "validation:accuracy"} if "validation:loss" in row else set()
            names |= {"train:micro_f1", *(f"validation:{name}" for name in METRIC_LABELS)} & row.keys()
            check_structure(row, dict.fromkeys(names, 0.0), f"row {epoch}")
        self.rows = rows
        self.solution = None if state.get("solution") is None else dict(state["solution"])
        self.averages = {str(name): dict(row) for name, row in state.get("averages", {}).items()}


@dataclass(frozen=True, slots=True)
class NullState:
    """Null object for an absent stateful component.

    Attributes:
        mark: Always zeros.
    """

    mark: ClassVar[tuple[int, int]] = (0, 0)

    def compare(self, marks: Sequence[tuple[int, int]]) -> None:
        """Do nothing."""

    def state_dict(self) -> State:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: State, /) -> None:
        """Do nothing."""

    def begin_step(self) -> None:
        """Do nothing."""

    def undo_step(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class TrainingState:
    """Complete state of a resumable job.

    Attributes:
        bad_records: Skipped records, so that each is counted once in the whole job.
        account: Run history with the cost of interruptions.
        stream: Records of a stream used in the current epoch.
        findings: Findings of the rules.
        probe: State of the probe that the next samples depend on.
        average: Average of the weights; part of the state only if it is active, as in earlier checkpoints.
        averaging: Weights to average after the last epoch; `None` if nothing is averaged.
    """

    weights: TrainableWeights
    optimizer: OptimizerState
    scaler: GradScaler
    totals: EpochTotals
    best: BestEpoch
    bad_records: Stateful
    account: Stateful
    stream: StreamState
    findings: Stateful
    probe: Stateful
    average: AveragedWeights
    progress: Progress = field(default_factory=Progress)
    history: History = field(default_factory=History)
    averaging: Averaging | None = None

    @property
    def exports_solved_head(self) -> bool:
        """Whether the weights to export are a solved head on layers that were not trained."""
        if self.history.solution is None or self.best.average:
            return False
        return self.best.epoch == 0 if self.best.weights else self.progress.step <= 1

    def parts(self) -> dict[str, Stateful]:
        """Return the stateful parts by name, in the order in which they are written."""
        averaging: dict[str, Stateful] = {} if self.averaging is None else {"averaging": self.averaging}
        return {
            "weights": self.weights,
            "optimizer": self.optimizer,
            **({"average": self.average} if self.average.is_active else {}),
            "scaler": self.scaler,
            "totals": self.totals,
            "best": self.best,
            "progress": self.progress,
            "history": self.history,
            "bad_records": self.bad_records,
            "account": self.account,
            "stream": self.stream,
            "findings": self.findings,
            "probe": self.probe,
            **averaging,
        }

    def load(self, states: Mapping[str, State]) -> None:
        """Restore the states of all parts.

        Raises:
            ValueError: The states do not match; the message says where. This object must not be used afterwards.
        """
        parts = self.parts()
        if states.keys() != parts.keys():
            raise ValueError(f"missing or unknown parts: {', '.join(sorted(states.keys() ^ parts.keys()))}")
        check_structure(states["scaler"], self.scaler.state_dict(), "scaler")
        for name, part in parts.items():
            try:
                part.load_state_dict(states[name])
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise ValueError(f"part {name!r}: {type(error).__name__}: {error}") from error
        if len(self.history.rows) != self.progress.epoch or self.best.epoch >= self.progress.epoch:
            raise ValueError(f"its history has {len(self.history.rows)} epochs, but its progress {self.progress.epoch}")
        if self.best.weights:
            check_structure(self.best.weights, self.weights.state_dict(), "best.weights")
