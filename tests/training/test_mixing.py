"""Mixed records and targets have the shares that the papers define, and training on them is resumed exactly."""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional

from finetune.models.backbone import Outputs
from finetune.tasks.multi_label import MultiLabelClassification
from finetune.tasks.single_label import SingleLabelClassification
from finetune.training.losses import Loss
from finetune.training.mixing import Mixing, mixing_randomness

NAMES = ("a", "b", "c")
LEVELS = torch.tensor([10, 60, 200, 250], dtype=torch.uint8)
"""Brightness of images of one color, by which pixels show the image they come from."""
PIXELS = LEVELS.view(4, 1, 1, 1).expand(4, 3, 12, 10)
TARGETS = torch.eye(4)
"""A class per record, so that mixed targets are shares of records."""


def test_mixup_averages_inputs_and_targets_with_the_same_shares() -> None:
    mixed, targets = Mixing(mixup=0.4)({"pixels": PIXELS}, TARGETS, random.Random(3))
    drawn = random.Random(3)
    shares = torch.tensor([drawn.betavariate(0.4, 0.4) for _ in range(4)])
    torch.testing.assert_close(targets.diagonal(), shares)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    # The partner of a record is the previous one.
    torch.testing.assert_close(targets[[0, 1, 2, 3], [3, 0, 1, 2]], 1 - shares)
    torch.testing.assert_close(mixed["pixels"], (targets @ LEVELS.float()).view(4, 1, 1, 1).expand(4, 3, 12, 10))


def test_cutmix_targets_are_the_shares_of_pixels() -> None:
    areas = []
    for seed in range(40):
        mixed, targets = Mixing(cutmix=1.0)({"pixels": PIXELS}, TARGETS, random.Random(seed))
        pixels = mixed["pixels"]
        assert pixels.dtype == torch.uint8
        for record in range(4):
            shares = torch.stack([(pixels[record] == level).float().mean() for level in LEVELS])
            torch.testing.assert_close(targets[record], shares)
            assert shares[record] + shares[record - 1] == pytest.approx(1)
        areas += targets.diagonal().tolist()
    # 0.5 without clipping at the edges; clipped rectangles are smaller.
    assert 0.55 < sum(areas) / len(areas) < 0.75
    assert min(areas) < 0.4
    assert max(areas) > 0.9


def test_each_batch_uses_one_of_both() -> None:
    kinds = set()
    for seed in range(20):
        mixed, _ = Mixing(mixup=1.0, cutmix=1.0)({"pixels": PIXELS}, TARGETS, random.Random(seed))
        kinds.add(mixed["pixels"].dtype)
    assert kinds == {torch.uint8, torch.float32}


def test_a_single_record_is_not_mixed() -> None:
    mixed, targets = Mixing(mixup=1.0)({"pixels": PIXELS[:1]}, TARGETS[:1], random.Random(0))
    assert torch.equal(mixed["pixels"], PIXELS[:1])
    assert torch.equal(targets, TARGETS[:1])


def test_randomness_depends_on_seed_step_and_shard() -> None:
    draws = {mixing_randomness(*key).random() for key in [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)]}
    assert len(draws) == 4
    assert mixing_randomness(5, 6, 7).random() == mixing_randomness(5, 6, 7).random()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_of_whole_records_give_the_loss_of_their_classes(smoothing: float) -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 1, 2, 1, 0])
    task, weights = SingleLabelClassification(NAMES), torch.tensor([0.5, 2.0, 1.0])
    hard = task.loss(logits, classes, smoothing, weights)
    torch.testing.assert_close(task.loss(logits, task.soft_targets(classes), smoothing, weights), hard)
    assert int(task.count(logits, task.soft_targets(classes))["correct"]) == int(task.count(logits, classes)["correct"])


def test_loss_of_mixed_targets_is_the_mean_of_both_losses() -> None:
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    for task, targets in (
        (SingleLabelClassification(NAMES), torch.tensor([0, 2])),
        (MultiLabelClassification(NAMES), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])),
    ):
        loss, soft = Loss(task), task.soft_targets(targets)
        own, other = loss(Outputs(logits), soft), loss(Outputs(logits), soft.flip(0))
        mixed = loss(Outputs(logits), 0.3 * soft + 0.7 * soft.flip(0))
        torch.testing.assert_close(mixed, 0.3 * own + 0.7 * other)
    torch.testing.assert_close(own, functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / 3)
