"""Minimizing logistic regression: the solutions of scikit-learn, and bits that no number of threads changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from finetune.solver.logistic import LinearHead, Problem, Stopping, minimize, open_workers

EXACT = Stopping(tolerance=1e-10, iterations=5000)


def records(count: int, width: int, classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Overlapping clusters of standardized features, each with its class."""
    draw = np.random.default_rng(3)
    labels = np.arange(count) % classes
    features = draw.normal(size=(classes, width))[labels] + 1.5 * draw.normal(size=(count, width))
    return (features - features.mean(0)) / features.std(0), labels


def problem_of(features: NDArray[np.float64], targets: NDArray[np.float64], *, exclusive: bool) -> Problem:
    weights = torch.ones(len(features), 1) if exclusive else torch.ones(1, targets.shape[1])
    return Problem(torch.from_numpy(features), torch.from_numpy(targets), weights.double(), exclusive)


def solve(problem: Problem, strength: float, parts: list[range] | None = None) -> LinearHead:
    rows = parts or [range(len(problem.features))]
    with open_workers(torch.device("cpu")) as workers:
        return minimize(problem, rows, strength, start=problem.zero_head(), stopping=EXACT, workers=workers)


@pytest.mark.parametrize("strength", [100.0, 1.0, 0.01])
def test_classes_equal_scikit_learn(strength: float) -> None:
    features, labels = records(120, 10, 4)
    head = solve(problem_of(features, np.eye(4)[labels], exclusive=True), strength)
    reference = LogisticRegression(C=1 / strength, tol=1e-9, max_iter=10_000, solver="newton-cg")
    reference.fit(features, labels)

    np.testing.assert_allclose(head.weight.numpy(), reference.coef_, rtol=1e-4, atol=1e-4)
    probabilities = head.logits(torch.from_numpy(features)).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities, reference.predict_proba(features), atol=1e-4)


def test_independent_labels_equal_scikit_learn() -> None:
    features, labels = records(120, 10, 4)
    targets = np.stack([labels == 0, labels % 2 == 0, labels != 3], axis=1).astype(np.float64)
    head = solve(problem_of(features, targets, exclusive=False), 2.0)
    for label in range(3):
        reference = LogisticRegression(C=0.5, tol=1e-9, max_iter=10_000).fit(features, targets[:, label])
        np.testing.assert_allclose(head.weight[label].numpy(), reference.coef_[0], atol=1e-4)
        assert float(head.bias[label]) == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_class_weights_equal_scikit_learn() -> None:
    features, labels = records(90, 6, 3)
    labels[:25] = 0
    weights = np.array([0.5, 1.0, 3.0])
    problem = problem_of(features, np.eye(3)[labels], exclusive=True)
    weighted = Problem(problem.features, problem.targets, torch.from_numpy(weights[labels]).unsqueeze(1), True)
    head = solve(weighted, 1.0)
    reference = LogisticRegression(C=1.0, tol=1e-9, max_iter=10_000, class_weight=dict(enumerate(weights)))
    np.testing.assert_allclose(head.weight.numpy(), reference.fit(features, labels).coef_, atol=1e-4)


def test_rows_outside_the_parts_do_not_matter() -> None:
    features, labels = records(100, 5, 3)
    problem = problem_of(features, np.eye(3)[labels], exclusive=True)
    kept = np.r_[0:30, 60:100]
    part = solve(problem, 1.0, [range(30), range(60, 100)])
    alone = solve(problem_of(features[kept], np.eye(3)[labels[kept]], exclusive=True), 1.0)
    torch.testing.assert_close(part.weight, alone.weight, rtol=0, atol=1e-7)


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.solver.logistic._CHUNK_MACS", 1000)
    features, labels = records(300, 20, 5)
    problem = problem_of(features, np.eye(5)[labels], exclusive=True)
    assert len(problem.chunks([range(300)])) > 10
    before, heads = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            heads.append(solve(problem, 1.0))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(head.weight, heads[0].weight) and torch.equal(head.bias, heads[0].bias) for head in heads)


def test_chunks_cover_each_row_once() -> None:
    problem = problem_of(np.zeros((40, 2**17)), np.zeros((40, 4)), exclusive=True)
    chunks = problem.chunks([range(3, 20), range(20, 20), range(25, 40)])
    rows = [row for chunk in chunks for row in range(chunk.start, chunk.stop)]
    assert rows == [*range(3, 20), *range(25, 40)]
    assert len(chunks) > 2


def test_a_check_ends_the_solve_within_its_iterations() -> None:
    features, labels = records(60, 5, 3)
    problem, calls = problem_of(features, np.eye(3)[labels], exclusive=True), []

    def check() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    stopping = Stopping(1e-12, 1000, check)
    with open_workers(torch.device("cpu")) as workers, pytest.raises(KeyboardInterrupt):
        minimize(problem, [range(60)], 1e-4, start=problem.zero_head(), stopping=stopping, workers=workers)
    assert len(calls) == 4
