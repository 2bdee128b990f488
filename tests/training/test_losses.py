"""Losses are sums over records, so that the batches of a step may differ in size."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from finetune.models.backbone import Outputs
from finetune.training.losses import Loss, balanced_class_weights, count_correct

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
TARGETS = torch.tensor([0, 1])


def test_loss_is_the_sum_of_cross_entropies() -> None:
    expected = functional.cross_entropy(LOGITS, TARGETS) * 2
    torch.testing.assert_close(Loss()(Outputs(LOGITS), TARGETS), expected)


def test_auxiliary_classifiers_are_weighted() -> None:
    plain = Loss()(Outputs(LOGITS), TARGETS)
    both = Loss()(Outputs(LOGITS, ((0.3, LOGITS), (0.1, LOGITS))), TARGETS)
    torch.testing.assert_close(both, 1.4 * plain)


def test_multi_label_loss_averages_over_labels() -> None:
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    by_hand = sum(
        -math.log(1 / (1 + math.exp(-z)) if t else 1 - 1 / (1 + math.exp(-z)))
        for z, t in zip(LOGITS.flatten().tolist(), targets.flatten().tolist(), strict=True)
    )
    torch.testing.assert_close(Loss(multi_label=True)(Outputs(LOGITS), targets), torch.tensor(by_hand / 3))


def test_count_correct_counts_exact_matches() -> None:
    assert int(count_correct(LOGITS, TARGETS)) == 1
    multi_label_targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert int(count_correct(LOGITS, multi_label_targets)) == 1


def test_balanced_weights_have_mean_one_over_the_records() -> None:
    targets = torch.tensor([0, 0, 0, 2])
    weights = balanced_class_weights(targets, 3)
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 0.0, 2.0]))
    torch.testing.assert_close(weights[targets].mean(), torch.tensor(1.0))
