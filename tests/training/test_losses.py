"""Losses are sums over records, so that the batches of a step may differ in size."""

from __future__ import annotations

import torch
from torch.nn import functional

from finetune.models.backbone import Outputs
from finetune.tasks.single_label import SingleLabelClassification
from finetune.training.losses import Loss, balanced_class_weights

LOSS = Loss(SingleLabelClassification(("a", "b", "c")))
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
TARGETS = torch.tensor([0, 1])


def test_loss_is_the_sum_of_cross_entropies() -> None:
    expected = functional.cross_entropy(LOGITS, TARGETS) * 2
    torch.testing.assert_close(LOSS(Outputs(LOGITS), TARGETS), expected)


def test_auxiliary_classifiers_are_weighted() -> None:
    plain = LOSS(Outputs(LOGITS), TARGETS)
    both = LOSS(Outputs(LOGITS, ((0.3, LOGITS), (0.1, LOGITS))), TARGETS)
    torch.testing.assert_close(both, 1.4 * plain)


def test_balanced_weights_have_mean_one_over_the_records() -> None:
    targets = torch.tensor([0, 0, 0, 2])
    weights = balanced_class_weights(torch.tensor([3.0, 0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 0.0, 2.0]))
    torch.testing.assert_close(weights[targets].mean(), torch.tensor(1.0))
