"""What an interruption must not lose: a few named things with state, and nothing that is a function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from finetune.checkpoint.form import check_count, check_form
from finetune.monitoring.score import score_of
from finetune.training.trainable_state import LearningWeights, OptimizerState, State

Row = dict[str, float]


class Stateful(Protocol):
    """Anything that can be written down and taken up again."""

    def state_dict(self) -> State:
        """Tensors and plain values, nested at will."""
        ...

    def load_state_dict(self, state: State, /) -> object:
        """Take up what `state_dict` gave."""
        ...


@dataclass(slots=True)
class Progress:
    """Where the job stands.

    Attributes:
        epoch: epochs wholly done, their evaluation included.
        step: optimizer steps done in the whole job.
        step_in_epoch: optimizer steps done in the epoch that is running.
        stopped_early: the validation metric ceased to improve, nothing more is trained.
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    stopped_early: bool = False

    def state_dict(self) -> State:
        """Plain values."""
        return asdict(self)

    def load_state_dict(self, state: State, /) -> None:
        """Take up plain values.

        Raises:
            ValueError: they are not of this form.
        """
        check_form(state, asdict(self), "progress")
        for name in ("epoch", "step", "step_in_epoch"):
            check_count(state[name], name)
        for name in asdict(self):
            setattr(self, name, state[name])


class Totals:
    """Sums over the records of the running epoch, kept on the device so that no step waits for them.

    Args:
        device: of the network.
        multi_label: whether `labels` is counted: labels rightly predicted, predicted, and there.
    """

    def __init__(self, device: torch.device, *, multi_label: bool = False) -> None:
        self.multi_label = multi_label
        self.labels = torch.zeros(3, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.records = 0

    def add(self, loss: Tensor, correct: Tensor, records: int) -> None:
        """Add a batch: sum of its losses, number of right predictions, number of records."""
        self.loss += loss
        self.correct += correct
        self.records += records

    def clear(self) -> None:
        """Begin an epoch."""
        self.loss.zero_()
        self.correct.zero_()
        self.labels.zero_()
        self.records = 0

    def means(self) -> Row:
        """Mean loss, accuracy, and micro F1 of a multi-label task so far; waits for the device."""
        count = max(1, self.records)
        means = {"loss": float(self.loss) / count, "accuracy": int(self.correct) / count}
        if self.multi_label:
            hits, predicted, there = self.labels.tolist()
            means["micro_f1"] = 2 * hits / max(1, predicted + there)
        return means

    def state_dict(self) -> State:
        """Tensors and a count."""
        return {"loss": self.loss, "correct": self.correct, "labels": self.labels, "records": self.records}

    def load_state_dict(self, state: State, /) -> None:
        """Take up tensors and a count.

        Raises:
            ValueError: they are not of this form.
        """
        check_form(state, self.state_dict(), "totals")
        check_count(state["records"], "records")
        self.loss.copy_(state["loss"])
        self.correct.copy_(state["correct"])
        self.labels.copy_(state["labels"])
        self.records = state["records"]


@dataclass(slots=True)
class Best:
    """The best epoch so far by validation score (`observe.score`), ties broken by validation loss, with its weights.

    Attributes:
        keep: whether weights are copied at all; only early stopping restores them.
        epoch: the best one, from 0; -1 before the first.
        improved: the last one whose score rose by more than `min_delta` over that of the one improved before; as long
            as the score is 0, the last one with a lower loss.
        reference: score of the epoch `improved`.
    """

    keep: bool
    epoch: int = -1
    score: float = float("-inf")
    accuracy: float = float("-inf")
    loss: float = float("inf")
    improved: int = -1
    reference: float = float("-inf")
    weights: dict[str, Tensor] = field(default_factory=dict)

    _NUMBERS: ClassVar = ("epoch", "score", "accuracy", "loss", "improved", "reference")

    def offer(self, row: Mapping[str, float], epoch: int, weights: LearningWeights, min_delta: float) -> None:
        """Take an epoch's validation metrics, and its weights where it is the best."""
        score, loss = score_of(row, "validation"), row["validation:loss"]
        # A loss that is not a number compares with nothing; it is the worst.
        loss = float("inf") if math.isnan(loss) else loss
        if score > self.reference + min_delta or (score <= 0 and loss < self.loss):
            self.improved, self.reference = epoch, score
        if self.epoch >= 0 and (score, -loss) <= (self.score, -self.loss):
            return
        self.epoch, self.score, self.accuracy, self.loss = epoch, score, row["validation:accuracy"], loss
        if self.keep:
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.state_dict().items()}

    def state_dict(self) -> State:
        """Tensors by name and plain values."""
        numbers = {name: getattr(self, name) for name in self._NUMBERS}
        return {**numbers, "weights": dict(self.weights)}

    def load_state_dict(self, state: State, /) -> None:
        """Take up tensors and plain values.

        Raises:
            ValueError: they are not of this form.
        """
        check_form({**state, "weights": {}}, {**self.state_dict(), "weights": {}}, "best")
        for name in self._NUMBERS:
            setattr(self, name, state[name])
        self.weights = dict(state["weights"])


@dataclass(slots=True)
class History:
    """The metrics of every epoch that is done."""

    rows: list[Row] = field(default_factory=list)

    def state_dict(self) -> State:
        """Plain values."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: State, /) -> None:
        """Take up plain values.

        Raises:
            ValueError: they are not of this form.
        """
        rows = [dict(row) for row in state["rows"]]
        for number, row in enumerate(rows):
            known = {"train:loss", "train:accuracy"}
            known |= {"validation:loss", "validation:accuracy"} if "validation:loss" in row else set()
            known |= {"train:micro_f1", "validation:micro_f1"} & row.keys()
            check_form(row, dict.fromkeys(known, 0.0), f"row {number}")
        self.rows = rows


@dataclass(frozen=True, slots=True)
class Nothing:
    """The state of what is not there."""

    def state_dict(self) -> State:
        """Empty."""
        return {}

    def load_state_dict(self, state: State, /) -> None:
        """Let it pass."""


@dataclass(slots=True)
class TrainingState:
    """Everything that a resumed job takes up.

    Attributes:
        bad_records: which records were left out, so that each is counted once in the whole job.
        account: what interruptions have cost.
        stream: which records of a stream were used in the running epoch.
        findings: what the rules have found.
        probe: what their next looks depend on.
    """

    weights: LearningWeights
    optimizer: OptimizerState
    scaler: GradScaler
    totals: Totals
    best: Best
    bad_records: Stateful
    progress: Progress = field(default_factory=Progress)
    history: History = field(default_factory=History)
    account: Stateful = field(default_factory=Nothing)
    stream: Stateful = field(default_factory=Nothing)
    findings: Stateful = field(default_factory=Nothing)
    probe: Stateful = field(default_factory=Nothing)

    def parts(self) -> dict[str, Stateful]:
        """The named things with state, in the order in which they are written."""
        return {
            "weights": self.weights,
            "optimizer": self.optimizer,
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
        }

    def take_up(self, states: Mapping[str, State]) -> None:
        """Take up what the parts of a state like this one have given.

        Raises:
            ValueError: it is no such state; the message says where it differs. This one must no longer be used.
        """
        parts = self.parts()
        if states.keys() != parts.keys():
            raise ValueError(f"it lacks or has besides: {', '.join(sorted(states.keys() ^ parts.keys()))}")
        check_form(states["scaler"], self.scaler.state_dict(), "scaler")
        for name, part in parts.items():
            try:
                part.load_state_dict(states[name])
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise ValueError(f"part {name!r}: {type(error).__name__}: {error}") from error
        if len(self.history.rows) != self.progress.epoch or self.best.epoch >= self.progress.epoch:
            raise ValueError(f"its history has {len(self.history.rows)} epochs, its progress {self.progress.epoch}")
        if self.best.weights:
            check_form(self.best.weights, self.weights.state_dict(), "best.weights")
