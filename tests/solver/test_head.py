"""Solving a head: the choice of the strength, its honest estimate, and heads for the features as given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from finetune.solver.head import DEFAULT_STRENGTH, STRENGTHS, StrengthResult, best_solution, solve_head


def clusters(count: int, width: int, classes: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float32 features far from standardized, and targets of exclusive classes."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = draw.normal(size=(classes, width))[labels] + noise * draw.normal(size=(count, width))
    features = 5 + features * np.linspace(0.5, 10, width)
    return torch.from_numpy(features).float(), torch.eye(classes, dtype=torch.float64)[torch.from_numpy(labels)]


def test_the_head_is_that_of_scikit_learn_for_the_features_as_given() -> None:
    features, targets = clusters(150, 12, 4, 2.0)
    solution = solve_head(features, targets, exclusive=True, strengths=[3.0], rescale=False)
    scaled = StandardScaler().fit_transform(features.double().numpy())
    reference = LogisticRegression(C=1 / 3.0, tol=1e-9, max_iter=10_000).fit(scaled, targets.argmax(1).numpy())
    probabilities = solution.head.logits(features.double()).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, reference.predict_proba(scaled), atol=1e-4)


@pytest.mark.parametrize("noise", [0.3, 4.0])
def test_the_chosen_strength_has_the_highest_accuracy(noise: float) -> None:
    features, targets = clusters(100, 20, 5, noise)
    seen: list[StrengthResult] = []
    solution = solve_head(features, targets, exclusive=True, report=seen.append)
    assert tuple(seen) == solution.path
    best = min(solution.path, key=lambda row: (-row.cv_accuracy, row.cv_loss))
    assert solution.strength == best.strength
    assert max(row.cv_accuracy for row in solution.path) == best.cv_accuracy
    assert [row.strength for row in solution.path] == list(STRENGTHS[: len(solution.path)])


def test_noisy_features_need_a_stronger_regularization() -> None:
    strengths = [solve_head(*clusters(100, 20, 5, noise), exclusive=True).strength for noise in (0.3, 4.0)]
    assert strengths[0] < strengths[1]


def test_of_equal_losses_the_strongest_wins() -> None:
    features, targets = torch.zeros(40, 3), torch.eye(2).double()[torch.arange(40) % 2]
    assert solve_head(features, targets, exclusive=True).strength == STRENGTHS[0]


def test_the_estimate_agrees_with_further_records() -> None:
    features, targets = clusters(4000, 20, 5, 3.0)
    solution = solve_head(features[:200], targets[:200], exclusive=True)
    predicted = solution.head.logits(features[200:].double()).argmax(1)
    accuracy = float((predicted == targets[200:].argmax(1)).double().mean())
    assert solution.estimate is not None
    assert (solution.estimate.records, solution.estimate.folds) == (200, 5)
    assert abs(solution.estimate.accuracy - accuracy) < 3 * solution.estimate.accuracy_standard_error
    assert 0.02 < solution.estimate.accuracy_standard_error < 0.04


def test_the_estimate_of_random_labels_is_chance() -> None:
    """The best of many noisy results would be above chance."""
    accuracies = []
    for seed in range(10):
        features = torch.from_numpy(np.random.default_rng(seed).normal(size=(60, 30)))
        solution = solve_head(features, torch.eye(2).double()[torch.arange(60) % 2], exclusive=True, seed=seed)
        assert solution.estimate is not None
        accuracies.append(solution.estimate.accuracy)
    assert np.mean(accuracies) < 0.55


def test_one_record_per_class_has_a_fixed_strength_and_no_estimate() -> None:
    features, targets = clusters(6, 4, 6, 0.1)
    solution = solve_head(features, targets, exclusive=True)
    assert (solution.strength, solution.path, solution.estimate) == (DEFAULT_STRENGTH, (), None)
    assert solution.head.logits(features.double()).argmax(1).tolist() == list(range(6))
    assert solution.as_json()["cross_validation"] is None


@pytest.mark.parametrize("per_class", [2, 3, 4])
def test_few_records_per_class_are_left_out_one_at_a_time(per_class: int) -> None:
    features, targets = clusters(6 * per_class, 4, 6, 0.1)
    solution = solve_head(features, targets, exclusive=True)
    assert solution.estimate is not None
    assert solution.estimate.records == 6 * per_class
    assert solution.estimate.accuracy > 0.8


def test_a_class_without_records_is_never_predicted() -> None:
    features, targets = clusters(60, 4, 3, 0.5)
    wider = torch.cat([targets[:, :1], torch.zeros(60, 1), targets[:, 1:]], dim=1).double()
    head = solve_head(features, wider, exclusive=True).head
    assert head.weight.shape == (4, 4)
    assert torch.equal(head.weight[1], torch.zeros(4).double())
    generous = torch.from_numpy(np.random.default_rng(1).normal(5, 30, size=(1000, 4)))
    assert 1 not in head.logits(generous).argmax(1).tolist()


def test_several_labels_per_record() -> None:
    features, targets = clusters(120, 8, 4, 0.5)
    labels = torch.stack([targets[:, 0], targets[:, 0] + targets[:, 1], torch.zeros(120), torch.ones(120)], 1).double()
    solution = solve_head(features, labels, exclusive=False)
    predicted = solution.head.logits(features.double()) > 0
    assert (predicted == (labels > 0.5)).double().mean() > 0.97
    assert not predicted[:, 2].any()
    assert predicted[:, 3].all()
    assert torch.isfinite(solution.head.bias).all()


def test_class_weights_raise_the_recall_of_a_rare_class() -> None:
    features, targets = clusters(200, 4, 2, 4.0)
    rare = torch.cat([torch.arange(0, 200, 2), torch.arange(1, 40, 2)])
    features, targets = features[rare], targets[rare]
    recalls = []
    for weights in (None, torch.tensor([0.6, 3.0])):
        head = solve_head(features, targets, exclusive=True, class_weights=weights).head
        recalls.append(float((head.logits(features.double()).argmax(1)[100:] == 1).double().mean()))
    assert recalls[0] < recalls[1]


@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0, 1000.1])
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_features_that_only_differ_by_rounding_have_no_effect(value: float, noise: float) -> None:
    features, targets = clusters(60, 4, 3, 0.5)
    rounding = value * noise * torch.randn(60, 1, generator=torch.Generator().manual_seed(0))
    wider = torch.cat([features, value + rounding], dim=1)
    head = solve_head(wider, targets, exclusive=True).head
    alone = solve_head(features, targets, exclusive=True).head
    torch.testing.assert_close(head.logits(wider.double()), alone.logits(features.double()), rtol=0, atol=1e-3)
    without = wider.double() - torch.cat([torch.zeros(60, 4), rounding], dim=1)
    torch.testing.assert_close(head.logits(wider.double()), head.logits(without), rtol=0, atol=1e-3)


def test_features_without_any_difference() -> None:
    solution = solve_head(torch.ones(30, 2), torch.eye(3).double()[torch.arange(30) % 3], exclusive=True)
    assert torch.isfinite(solution.head.weight).all()
    torch.testing.assert_close(solution.head.bias, torch.zeros(3).double(), rtol=0, atol=1e-6)


def test_the_loss_chooses_between_equally_accurate_strengths() -> None:
    """Otherwise classes that are easily separated would be predicted with even probabilities."""
    features, targets = clusters(60, 8, 3, 0.05)
    solution = solve_head(features, targets, exclusive=True)
    assert solution.path[0].cv_accuracy == 1.0
    assert solution.strength < 1.0
    assert solution.head.logits(features.double()).softmax(1).max(1).values.min() > 0.9


def test_the_factor_makes_probabilities_of_further_records_likely() -> None:
    features, targets = clusters(2000, 20, 5, 2.0)
    losses = []
    for rescale in (True, False):
        solution = solve_head(features[:200], targets[:200], exclusive=True, strengths=[3000.0], rescale=rescale)
        logits = solution.head.logits(features[200:].double())
        losses.append(float(torch.nn.functional.cross_entropy(logits, targets[200:])))
        assert (solution.scale > 2) == rescale
        assert solution.estimate is not None
        assert solution.estimate.loss == pytest.approx(losses[-1], rel=0.2)
    assert losses[0] < 0.8 * losses[1]


def test_the_factor_of_few_separable_records_stays_moderate() -> None:
    features, targets = clusters(6, 4, 3, 0.01)
    head = solve_head(features, targets, exclusive=True).head
    probabilities = head.logits(features.double()).softmax(1)
    assert 0.6 < float(probabilities.max(1).values.mean()) < 0.99


def test_the_factor_changes_no_prediction() -> None:
    features, targets = clusters(100, 20, 5, 2.0)
    heads = [solve_head(features, targets, exclusive=True, rescale=rescale).head for rescale in (True, False)]
    predicted = [head.logits(features.double()).argmax(1) for head in heads]
    assert torch.equal(*predicted)


def test_the_loss_alone_chooses_for_independent_labels() -> None:
    features, targets = clusters(80, 8, 4, 2.0)
    labels = torch.stack([targets[:, 0], targets[:, 0] + targets[:, 1]], dim=1)
    solution = solve_head(features, labels, exclusive=False)
    assert solution.strength == min(solution.path, key=lambda row: row.cv_loss).strength


def test_the_best_solution_has_the_highest_accuracy() -> None:
    features, targets = clusters(100, 20, 5, 2.0)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(100, 20)))
    solutions = [solve_head(values, targets, exclusive=True) for values in (noise, features, features)]
    assert best_solution(solutions) == 1


def test_the_same_bits_on_repetition() -> None:
    features, targets = clusters(100, 10, 4, 1.0)
    first, second = (solve_head(features, targets, exclusive=True) for _ in range(2))
    assert torch.equal(first.head.weight, second.head.weight)
    assert torch.equal(first.head.bias, second.head.bias)
    assert first.path == second.path


def test_a_stop_ends_the_solve() -> None:
    features, targets = clusters(100, 10, 4, 1.0)

    def stop(_: StrengthResult) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve_head(features, targets, exclusive=True, report=stop)
