"""Weights kept for averages that are tried after the last epoch: the solved head, and the sum of the last epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from finetune.checkpoint.state import check_count, check_structure
from finetune.training.saved_state.trainable_state import State, TrainableWeights

ALPHAS = (0.5, 0.75)
"""Shares of the fine-tuned weights in averages with the solved head (WiSE-FT)."""
_SOUP_SHARE = 1 / 3
"""Share of the fine-tuned epochs, the last ones, whose weights are averaged uniformly."""


@dataclass(slots=True)
class Averaging:
    """Weights to average.

    The solved head is saved without the layers below it, which are then still those that the model was loaded with.

    Attributes:
        pretrained: All trainable weights before training, in the memory of the host.
        head: Names of the weights that solving the head may change.
        solved: Those weights after the head was solved; empty before.
        total: Sum of the weights of the last epochs, float32, in the memory of the host; empty before them.
        count: Number of epochs in the sum.
    """

    pretrained: dict[str, Tensor]
    head: frozenset[str]
    solved: dict[str, Tensor] = field(default_factory=dict)
    total: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def epoch_done(self, epochs_done: int, epochs: int, weights: TrainableWeights) -> None:
        """Keep the weights of an epoch if they take part in an average.

        Args:
            epochs_done: Finished epochs; the first one solves the head.
            epochs: All epochs.
            weights: Weights after the epoch.
        """
        if epochs_done == 1:
            self.solved = {name: value for name, value in host_copies(weights).items() if name in self.head}
        elif epochs_done > epochs - math.ceil((epochs - 1) * _SOUP_SHARE):
            last = {name: value for name, value in host_copies(weights).items() if value.is_floating_point()}
            self.total = {name: value.float() + self.total.get(name, 0.0) for name, value in last.items()}
            self.count += 1

    def averages(self, last: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield averages of weights with their names, from simple to complex.

        Args:
            last: Weights after the last epoch, whose counts (of batch normalization) all averages have.
        """
        solved = {**self.pretrained, **self.solved}
        for alpha in ALPHAS:
            name = f"{1 - alpha:g} x solved head + {alpha:g} x last epoch"
            yield name, {key: _mixed(solved[key], value, alpha) for key, value in last.items()}
        if self.count > 1:
            mean = {key: (value / self.count).to(last[key].dtype) for key, value in self.total.items()}
            yield f"mean of the last {self.count} epochs", {**last, **mean}

    def state_dict(self) -> State:
        """Return tensors by name and a count."""
        return {"solved": dict(self.solved), "total": dict(self.total), "count": self.count}

    def load_state_dict(self, state: State, /) -> None:
        """Restore tensors and a count.

        Raises:
            ValueError: The tensors are not those of this model.
        """
        floating = {name: value.float() for name, value in self.pretrained.items() if value.is_floating_point()}
        expected = {
            "solved": {name: self.pretrained[name] for name in sorted(self.head)} if state["solved"] else {},
            "total": floating if state["total"] else {},
            "count": 0,
        }
        check_structure(state, expected, "averaging")
        check_count(state["count"], "count")
        self.solved, self.total, self.count = dict(state["solved"]), dict(state["total"]), state["count"]


def host_copies(weights: TrainableWeights) -> dict[str, Tensor]:
    """Return copies of the weights in the memory of the host."""
    return {name: value.detach().to("cpu", copy=True) for name, value in weights.state_dict().items()}


def _mixed(solved: Tensor, fine_tuned: Tensor, alpha: float) -> Tensor:
    return torch.lerp(solved, fine_tuned, alpha) if fine_tuned.is_floating_point() else fine_tuned
