"""The best epoch is that of the highest score; a solved head is replaced only by clearly better weights."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from finetune.training.saved_state.state import BestEpoch
from finetune.training.saved_state.trainable_state import TrainableWeights


class Weights:
    """Weights that tell the epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, Tensor]:
        return {"weight": torch.tensor(float(self.epoch))}


def update(best: BestEpoch, epoch: int, accuracy: float, loss: float = 1.0, average: str = "") -> None:
    row = {"validation:accuracy": accuracy, "validation:loss": loss}
    best.update(row, epoch, cast("TrainableWeights", Weights(epoch)), 0.0, average)


@pytest.mark.parametrize(
    ("accuracy", "records", "replaced"),
    # Half the standard error of 0.8 is 0.02 on 100 records, and 0.002 on 10,000.
    [(0.819, 100, False), (0.821, 100, True), (0.803, 10_000, True), (0.8, 10_000, False)],
)
def test_noise_does_not_replace_a_solved_head(accuracy: float, records: int, replaced: bool) -> None:
    best = BestEpoch(keep=True, solved_records=records)
    update(best, 0, 0.8)
    update(best, 1, accuracy, loss=0.1)
    assert best.epoch == int(replaced)
    assert best.weights["weight"] == best.epoch
    # Epochs of fine-tuning are compared as usual.
    update(best, 2, 0.9, loss=0.2)
    update(best, 3, 0.9, loss=0.1)
    assert best.epoch == 3


def test_without_a_solved_head_a_lower_loss_decides_between_equal_scores() -> None:
    best = BestEpoch(keep=True)
    update(best, 0, 0.8, loss=1.0)
    update(best, 1, 0.8, loss=0.9)
    assert best.epoch == 1


def test_an_average_is_named_and_survives_a_checkpoint() -> None:
    best = BestEpoch(keep=True, solved_records=100)
    update(best, 0, 0.5)
    update(best, 4, 0.9, average="mean")
    assert (best.epoch, best.average) == (4, "mean")
    restored = BestEpoch(keep=True, solved_records=100)
    restored.load_state_dict(best.state_dict())
    assert restored == best
