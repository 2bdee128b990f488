"""Predictions are in dataset order, whatever the order of the batches."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch

from finetune.data.loading.batches import Batch
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.evaluation.predict import InferenceContext, predict
from finetune.tasks.single_label import SingleLabelClassification
from tests.support.tiny import CLASSES, SIDE, TinyBackbone

TASK = SingleLabelClassification(CLASSES)
CONTEXT = InferenceContext(torch.device("cpu"), nullcontext, lambda: False)


@dataclass
class ImageBatches:
    """Images in batches of three, in a given order; the position of an image determines its class."""

    order: tuple[int, ...]

    def iterate(self, epoch: int, first: int = 0, share: Share = WHOLE_BATCHES) -> Generator[Batch, None, None]:
        pixels = torch.randint(0, 256, (10, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
        for positions in share.select(self.order[start : start + 3] for start in range(first * 3, len(self.order), 3)):
            rows = torch.tensor(positions)
            yield Batch({"pixels": pixels[rows].byte()}, rows % 3, tuple(positions))


@pytest.mark.parametrize("order", [(4, 2, 9, 0, 1, 7), (9, 7, 4, 2, 1, 0)])
def test_predictions_are_in_dataset_order(order: tuple[int, ...]) -> None:
    expected = predict(TinyBackbone(), ImageBatches((0, 1, 2, 4, 7, 9)), CONTEXT, TASK)
    predictions = predict(TinyBackbone(), ImageBatches(order), CONTEXT, TASK)
    assert predictions is not None
    assert expected is not None
    assert predictions.positions.tolist() == expected.positions.tolist() == [0, 1, 2, 4, 7, 9]
    assert predictions.targets.tolist() == expected.targets.tolist() == [0, 1, 2, 1, 1, 0]
    torch.testing.assert_close(torch.from_numpy(predictions.probabilities), torch.from_numpy(expected.probabilities))
    assert predictions.loss == pytest.approx(expected.loss)
