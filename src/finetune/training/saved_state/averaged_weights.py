"""Exponential moving average of the trainable weights, which is evaluated and exported in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from finetune.training.saved_state.trainable_state import State, TrainableWeights


class AveragedWeights:
    """Average of the trainable weights and normalization statistics over the steps; off with a decay of 0.

    After step t, counted from 1, the average moves towards the weights by 1 - min(decay, (1 + t) / (10 + t)), as in
    TensorFlow's `ExponentialMovingAverage`, so that it follows the weights quickly at first. Integers are copied.
    """

    def __init__(self, weights: TrainableWeights, decay: float) -> None:
        """Initialize with the current weights.

        Args:
            weights: The weights; if they are sharded, the average is sharded in the same way.
            decay: Decay in [0, 1).
        """
        self._weights = weights
        self._decay = decay
        self._averages = {name: tensor.detach().clone() for name, tensor in weights.live_tensors().items() if decay}

    @property
    def is_active(self) -> bool:
        """Whether the weights are averaged."""
        return bool(self._averages)

    @torch.no_grad()
    def step_done(self, steps: int) -> None:
        """Move the average towards the weights after `steps` steps of the job."""
        if not self._averages:
            return
        decay = min(self._decay, (1 + steps) / (10 + steps))
        averages, weights = [], []
        for average, weight in self._pairs():
            if average.is_floating_point():
                averages.append(average)
                weights.append(weight)
            else:
                average.copy_(weight)
        # Three operations that each round once: the bits of a fused one would depend on the shapes of the shards.
        differences = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(differences, 1 - decay)
        torch._foreach_add_(averages, differences)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Exchange weights and average in the model, until the context exits."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def apply(self) -> None:
        """Copy the average into the model."""
        for average, weight in self._pairs():
            weight.copy_(average)

    def state_dict(self) -> State:
        """Return the averages by name; copies of those that are sharded."""
        return self._weights.whole(self._averages)

    def load_state_dict(self, state: State, /) -> None:
        """Restore the averages.

        Raises:
            ValueError: Names, shapes or dtypes do not match.
        """
        self._weights.load_into(self._averages, state, "average")

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, weight in self._pairs():
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield average and weight of every name; of sharded tensors, the parts of this process."""
        live = self._weights.live_tensors() if self._averages else {}
        for name, average in self._averages.items():
            yield _local(average), _local(live[name])


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()
