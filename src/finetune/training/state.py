"""What an interruption must not lose: a few named things with state, and nothing that is a function of the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from finetune.models.backbone import Backbone
from finetune.strategies.plan import Plan

State = dict[str, Any]
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
        """Take up plain values."""
        for name in asdict(self):
            setattr(self, name, state[name])


class Totals:
    """Sums over the records of the running epoch, kept on the device so that no step waits for them."""

    def __init__(self, device: torch.device) -> None:
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
        self.records = 0

    def means(self) -> Row:
        """Mean loss and accuracy so far; waits for the device."""
        count = max(1, self.records)
        return {"loss": float(self.loss) / count, "accuracy": int(self.correct) / count}

    def state_dict(self) -> State:
        """Tensors and a count."""
        return {"loss": self.loss, "correct": self.correct, "records": self.records}

    def load_state_dict(self, state: State, /) -> None:
        """Take up tensors and a count."""
        self.loss.copy_(state["loss"])
        self.correct.copy_(state["correct"])
        self.records = state["records"]


class LearningWeights:
    """The weights and normalisation statistics that the plan ever changes; the frozen ones come from where they came.

    Attributes:
        names: keys of `module.state_dict()` that belong to groups which learn in some phase.
    """

    def __init__(self, backbone: Backbone, plan: Plan) -> None:
        self._module = backbone.module
        frozen = frozen_names(backbone, plan.ever_trainable)
        self.names = tuple(name for name in self._module.state_dict() if name not in frozen)

    def state_dict(self) -> State:
        """The live tensors by name."""
        tensors = self._module.state_dict()
        return {name: tensors[name] for name in self.names}

    def load_state_dict(self, state: State, /) -> None:
        """Copy tensors of the same names, shapes and types into the network."""
        tensors = self._module.state_dict()
        if set(state) != set(self.names):
            raise ValueError(f"weights do not fit: {sorted(set(state) ^ set(self.names))[:3]}")
        for name in self.names:
            tensors[name].copy_(state[name])


def frozen_names(backbone: Backbone, learning: Iterable[str]) -> frozenset[str]:
    """Keys of the module's state dict that belong only to groups outside `learning`."""
    learns = frozenset(learning)
    prefixes = {id(module): name for name, module in backbone.module.named_modules()}
    names: set[str] = set()
    for group in backbone.layer_groups():
        if group.name in learns:
            continue
        names.update(group.parameters)
        for root in group.modules:
            prefix = prefixes[id(root)]
            names.update(f"{prefix}.{name}" if prefix else name for name, _ in root.named_buffers())
    return frozenset(names)


@dataclass(slots=True)
class Best:
    """The best epoch so far by validation accuracy, ties broken by validation loss, with its weights.

    Attributes:
        keep: whether weights are copied at all; only early stopping restores them.
        epoch: the best one, from 0; -1 before the first.
        improved: the last one whose accuracy rose by more than `min_delta` over that of the one improved before.
        reference: accuracy of the epoch `improved`.
    """

    keep: bool
    epoch: int = -1
    accuracy: float = float("-inf")
    loss: float = float("inf")
    improved: int = -1
    reference: float = float("-inf")
    weights: dict[str, Tensor] = field(default_factory=dict)

    _NUMBERS: ClassVar = ("epoch", "accuracy", "loss", "improved", "reference")

    def offer(self, row: Mapping[str, float], epoch: int, weights: LearningWeights, min_delta: float) -> None:
        """Take an epoch's validation metrics, and its weights where it is the best."""
        accuracy, loss = row["validation:accuracy"], row["validation:loss"]
        if accuracy > self.reference + min_delta:
            self.improved, self.reference = epoch, accuracy
        if (accuracy, -loss) <= (self.accuracy, -self.loss):
            return
        self.epoch, self.accuracy, self.loss = epoch, accuracy, loss
        if self.keep:
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.state_dict().items()}

    def state_dict(self) -> State:
        """Tensors by name and plain values."""
        numbers = {name: getattr(self, name) for name in self._NUMBERS}
        return {**numbers, "weights": dict(self.weights)}

    def load_state_dict(self, state: State, /) -> None:
        """Take up tensors and plain values."""
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
        """Take up plain values."""
        self.rows = [dict(row) for row in state["rows"]]


class OptimizerState:
    """An optimizer's moments by parameter name, so that a file of them can be read by a person and checked by name."""

    def __init__(self, optimizer: Optimizer, module: nn.Module) -> None:
        self._optimizer = optimizer
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._names = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]

    def state_dict(self) -> State:
        """Moments by parameter name; rates and decays are functions of the request and are not kept."""
        state = self._optimizer.state_dict()["state"]
        return {name: dict(state[index]) for index, name in enumerate(self._names) if index in state}

    def load_state_dict(self, state: State, /) -> None:
        """Take up moments by parameter name."""
        strangers = set(state) - set(self._names)
        if strangers:
            raise ValueError(f"optimizer state of unknown parameters: {sorted(strangers)[:3]}")
        moments = {index: state[name] for index, name in enumerate(self._names) if name in state}
        current = self._optimizer.state_dict()
        self._optimizer.load_state_dict({"state": moments, "param_groups": current["param_groups"]})


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
        }
