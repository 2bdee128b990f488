"""Losses are sums over records, so that the batches of a step may differ in size."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from finetune.errors import UserError
from finetune.models.backbone import Outputs
from finetune.tasks.multi_label import MultiLabelClassification
from finetune.tasks.single_label import SingleLabelClassification
from finetune.training.build_loss import build_loss
from finetune.training.losses import Loss, balanced_class_weights, logit_adjustments
from tests.support.tiny import TinyReader, tiny_batches
from tests.support.training_setup import CPU, request

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


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_one_class_weights_by_the_probability_of_the_others(gamma: float) -> None:
    probabilities = LOGITS.softmax(1)[[0, 1], TARGETS]
    expected = (-((1 - probabilities) ** gamma) * probabilities.log()).sum()
    torch.testing.assert_close(Loss(LOSS.task, focal_gamma=gamma)(Outputs(LOGITS), TARGETS), expected)


def test_focal_loss_of_several_classes_is_that_of_torchvision() -> None:
    task, targets = MultiLabelClassification(("a", "b", "c")), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    expected = sigmoid_focal_loss(LOGITS, targets, alpha=-1, gamma=1.5, reduction="sum") / 3
    torch.testing.assert_close(Loss(task, focal_gamma=1.5)(Outputs(LOGITS), targets), expected)


def test_focal_loss_approaches_cross_entropy_with_smoothing_and_weights() -> None:
    weights = torch.tensor([0.5, 2.0, 1.0])
    for task, targets in ((LOSS.task, TARGETS), (MultiLabelClassification(("a", "b", "c")), torch.eye(3)[:2])):
        plain = Loss(task, 0.1, weights)(Outputs(LOGITS), targets)
        torch.testing.assert_close(Loss(task, 0.1, weights, focal_gamma=1e-7)(Outputs(LOGITS), targets), plain)


def test_gradient_of_the_focal_loss_is_finite_for_certain_predictions() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(Loss(LOSS.task, focal_gamma=0.5)(Outputs(logits), torch.tensor([0])), logits)
    assert torch.equal(gradient, torch.zeros(1, 3))


def test_logit_adjusted_loss_adds_the_logarithms_of_class_frequencies() -> None:
    counts = torch.tensor([6.0, 2.0, 0.0], dtype=torch.float64)
    loss = Loss(LOSS.task, adjustments=logit_adjustments(counts, 1.5))
    # A class without records counts as one with a single record.
    odds = LOGITS.exp() * torch.tensor([6 / 8, 2 / 8, 1 / 8]) ** 1.5
    expected = -(odds[[0, 1], TARGETS] / odds.sum(1)).log().sum()
    torch.testing.assert_close(loss(Outputs(LOGITS), TARGETS), expected)


def test_loss_is_built_from_the_hyperparameters_and_the_records() -> None:
    records = tiny_batches(TinyReader(7), training=True)  # three records of the class "down", two of each other

    def build(**hyperparameters: str) -> Loss:
        return build_loss(request(**hyperparameters), records, LOSS.task, CPU)

    assert build(loss="focal").focal_gamma == 2
    assert build(focal_gamma="1") == LOSS
    weights = build(class_weights='{"up": 2, "down": 0.5}').class_weights
    assert weights is not None
    assert weights.tolist() == [0.5, 1, 2]
    adjustments = build(loss="logit_adjusted", logit_adjustment="2").adjustments
    assert adjustments is not None
    torch.testing.assert_close(adjustments, 2 * torch.tensor([3 / 7, 2 / 7, 2 / 7]).log())
    assert build(loss="logit_adjusted", strategy="feature_extraction", head_solver="lbfgs") == LOSS
    with pytest.raises(UserError, match="class_weights has weights of cat, but the classes are down, level, up"):
        build(class_weights='{"cat": 2}')
