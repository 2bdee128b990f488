"""Solves a linear head: chooses the regularization strength by cross-validation, then uses all records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.solver.folds import Folds, make_folds, sizes, strata_of
from finetune.solver.logistic import LinearHead, Problem, Stopping, Workers, minimize, open_workers

STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(8, -9, -1))
"""Candidates from strong to weak: 1e4 to 1e-4 in half decades, the range of scikit-learn's `LogisticRegressionCV`."""
DEFAULT_STRENGTH = 10.0
"""Strength if no record can be held out, because every class has a single one."""
_PATIENCE = 3
"""Weaker strengths without a lower loss after which the path ends: the loss has a single minimum, up to noise."""
_CROSS_VALIDATION, _FINAL = (1e-5, 200), (1e-8, 2000)
"""Largest element of the gradient, and number of iterations: in folds, and for the final head."""
_SCALES, _BISECTIONS = (0.01, 100.0), 50
"""Range of the factor of the logits, and steps to find it."""
_MIN_DEVIATION = 0.01
"""Smallest scale of a feature, relative to its mean and to the standard deviation of all features together.

The deviation of a smaller one is rounding, in part or all of it; scaled to unit variance it would get a large weight.
"""


@dataclass(frozen=True, slots=True)
class StrengthResult:
    """Cross-validation of one regularization strength.

    Attributes:
        strength: factor of half the squared norm of the weight, added to the summed loss; with features of unit
            variance.
        cv_loss: mean loss of the held-out records.
        cv_accuracy: share of the held-out records that are predicted correctly; with several labels per record, all of
            them.
    """

    strength: float
    cv_loss: float
    cv_accuracy: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cross-validated quality of the head; the accuracy of each fold with the strength that the other folds choose.

    Attributes:
        loss: mean loss, with the chosen strength and factor.
        accuracy: share of the records that are predicted correctly.
        accuracy_standard_error: its standard error.
        records: number of records that were held out once.
        folds: number of folds.
    """

    loss: float
    accuracy: float
    accuracy_standard_error: float
    records: int
    folds: int


@dataclass(frozen=True, slots=True)
class Solution:
    """A solved head and how it was chosen.

    Attributes:
        head: linear layer on the features as they were given.
        strength: chosen regularization strength.
        scale: factor of weight and bias, which makes the probabilities of held-out records likely.
        path: results by strength, from strong to weak; empty without cross-validation.
        estimate: cross-validated quality; `None` without cross-validation.
    """

    head: LinearHead
    strength: float
    scale: float
    path: tuple[StrengthResult, ...]
    estimate: Estimate | None

    def as_json(self) -> dict[str, Any]:
        """Return everything but the head as plain values."""
        estimate = None if self.estimate is None else asdict(self.estimate)
        return {
            "strength": self.strength,
            "scale": self.scale,
            "path": [asdict(row) for row in self.path],
            "cross_validation": estimate,
        }


def solve_head(  # noqa: PLR0913  # by keyword
    features: Tensor,
    targets: Tensor,
    *,
    exclusive: bool,
    class_weights: Tensor | None = None,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
    rescale: bool = True,
    check: Callable[[], None] = lambda: None,
    report: Callable[[StrengthResult], None] = lambda _: None,
) -> Solution:
    """Solve the head of a frozen model.

    The features are standardized, and the head is converted back to the given ones. The result is a function of the
    arguments: the same bits for any number of threads.

    Args:
        features: `[records, width]`, on the device that computes; no record is left out.
        targets: `[records, classes]` of 0 and 1, on any device.
        exclusive: whether each record has exactly one class (softmax), or any number of classes (sigmoid).
        class_weights: factor of the loss by class, `[classes]`; `None` for 1.
        seed: seed of the folds.
        strengths: candidates, from strong to weak.
        rescale: whether to multiply the head by the factor with the lowest loss of held-out records. The strength of
            the highest accuracy is often too strong for probabilities, which are then too even.
        check: called often; ends the job by an exception.
        report: called with each result of the cross-validation.
    """
    with open_workers(features.device) as workers:
        truth = targets.double().cpu()
        folds = make_folds(strata_of(truth.numpy(), exclusive=exclusive), seed)
        order = torch.from_numpy(folds.order)
        scaled, mean, scale = _standardize(features[order.to(features.device)].double())
        # The bias of a class without records, or of a label that all records share, would grow without limit.
        counts = truth.sum(dim=0)
        varies = (counts > 0) & (counts < (math.inf if exclusive else len(truth)))
        problem = _problem(scaled, truth[order][:, varies], class_weights, varies, exclusive=exclusive)
        path = _CrossValidation(problem, folds, workers, check)
        path.run(strengths, report)
        strength = path.best()
        solved = minimize(
            problem,
            [range(len(truth))],
            strength,
            start=problem.zero_head(),
            stopping=Stopping(*_FINAL, check),
            workers=workers,
        )
        factor = path.best_scale() if rescale else 1.0
        head = _with_constant_classes(_unscaled(solved.scaled(factor), mean, scale), varies, counts)
        return Solution(head, strength, factor, tuple(path.results), path.estimate(factor))


def best_solution(solutions: Sequence[Solution]) -> int:
    """Return the index of the best of several solutions for the same records, the first if several are equal."""
    results = [next((row for row in it.path if row.strength == it.strength), None) for it in solutions]
    return _best([(row.cv_accuracy, row.cv_loss) if row is not None else (0.0, 0.0) for row in results])


class _CrossValidation:
    """Follows the strengths from strong to weak in all folds; each solution is the first guess of the next."""

    def __init__(self, problem: Problem, folds: Folds, workers: Workers, check: Callable[[], None]) -> None:
        self.results: list[StrengthResult] = []
        self._problem, self._folds, self._workers = problem, folds, workers
        self._stopping = Stopping(*_CROSS_VALIDATION, check)
        self._heads = [problem.zero_head() for _ in folds.held_out]
        self._best_heads = list(self._heads)
        self._losses: list[list[float]] = []
        self._correct: list[list[int]] = []

    def run(self, strengths: Sequence[float], report: Callable[[StrengthResult], None]) -> None:
        """Evaluate the strengths, until weaker ones have become worse."""
        for strength in strengths if self._folds.held_out else ():
            losses, correct = [], []
            for fold, rows in enumerate(self._folds.held_out):
                self._heads[fold] = head = minimize(
                    self._problem,
                    self._folds.training(fold),
                    strength,
                    start=self._heads[fold],
                    stopping=self._stopping,
                    workers=self._workers,
                )
                held_out = slice(rows.start, rows.stop)
                losses.append(float(self._problem.losses(head, held_out).sum()))
                correct.append(int(self._problem.correct(head, held_out).sum()))
            self._losses.append(losses)
            self._correct.append(correct)
            count = sizes(self._folds.held_out)
            self.results.append(StrengthResult(strength, sum(losses) / count, sum(correct) / count))
            if self.best() == strength:
                self._best_heads = list(self._heads)
            report(self.results[-1])
            if len(self.results) - 1 - _best([(0.0, row.cv_loss) for row in self.results]) >= _PATIENCE:
                return

    def best(self) -> float:
        """Return the strength with the highest accuracy, then the lowest loss, then the strongest.

        For independent labels, of which all are rarely correct, only the loss counts.
        """
        if not self.results:
            return DEFAULT_STRENGTH
        return self.results[_best([self._rank(row.cv_accuracy, row.cv_loss) for row in self.results])].strength

    def _rank(self, accuracy: float, loss: float) -> tuple[float, float]:
        return (accuracy if self._problem.exclusive else 0.0, loss)

    def best_scale(self) -> float:
        """Return the factor of the logits with the lowest loss of the held-out records, which is convex in it.

        One more record without a known class keeps it finite if all of them are predicted correctly (Platt, 1999).
        """
        if not self.results:
            return 1.0
        low, high = _SCALES
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self._slope(middle) > 0 else (middle, high)
        return math.sqrt(low * high)

    def _slope(self, factor: float) -> float:
        """Return the derivative of the summed held-out loss by the factor."""
        total, unknown = 0.0, 1 / (sizes(self._folds.held_out) + 1)
        even = 1 / self._problem.targets.shape[1] if self._problem.exclusive else 0.5
        for head, rows in zip(self._best_heads, self._folds.held_out, strict=True):
            logits = head.logits(self._problem.features[rows.start : rows.stop])
            scaled = logits * factor
            probabilities = scaled.softmax(dim=1) if self._problem.exclusive else scaled.sigmoid()
            targets = self._problem.targets[rows.start : rows.stop]
            errors = probabilities - (targets * (1 - unknown) + even * unknown)
            total += float((errors * logits).sum())
        return total

    def estimate(self, factor: float) -> Estimate | None:
        """Return the quality of each fold with the strength that is best in the others.

        Args:
            factor: factor of the logits.

        The lowest of several noisy losses is too low an estimate; that of records that did not take part in the choice
        is not.
        """
        if not self.results:
            return None
        correct, several = 0, len(self._folds.held_out) > 1
        for fold in range(len(self._folds.held_out)):
            others = [
                self._rank(sum(hits) - several * hits[fold], sum(losses) - several * losses[fold])
                for hits, losses in zip(self._correct, self._losses, strict=True)
            ]
            correct += self._correct[_best(others)][fold]
        count = sizes(self._folds.held_out)
        loss = sum(
            float(self._problem.losses(head.scaled(factor), slice(rows.start, rows.stop)).sum())
            for head, rows in zip(self._best_heads, self._folds.held_out, strict=True)
        )
        accuracy = correct / count
        error = math.sqrt(accuracy * (1 - accuracy) / count)
        return Estimate(loss / count, accuracy, error, count, len(self._folds.held_out))


def _best(ranks: Sequence[tuple[float, float]]) -> int:
    """Return the first index with the highest accuracy, and among those with the lowest loss."""
    return min(range(len(ranks)), key=lambda index: (-ranks[index][0], ranks[index][1]))


def _standardize(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale float64 features in place to a variance of at most 1; return them with their mean and scale."""
    mean = features.mean(dim=0)
    features -= mean
    variance = features.square().mean(dim=0)
    scale = torch.maximum(variance.sqrt(), _MIN_DEVIATION * torch.maximum(mean.abs(), variance.mean().sqrt()))
    scale = torch.where(scale > 0, scale, 1.0)
    features /= scale
    return features, mean, scale


def _unscaled(head: LinearHead, mean: Tensor, scale: Tensor) -> LinearHead:
    weight = head.weight / scale
    return LinearHead(weight, head.bias - weight @ mean)


def _problem(
    features: Tensor, targets: Tensor, class_weights: Tensor | None, varies: Tensor, *, exclusive: bool
) -> Problem:
    factors = torch.ones(len(varies), dtype=torch.float64)
    if class_weights is not None:
        factors = class_weights.double().cpu()
    factors = factors[varies]
    weights = (targets @ factors).unsqueeze(1) if exclusive else factors.unsqueeze(0)
    return Problem(features, targets.to(features.device), weights.to(features.device), exclusive)


def _with_constant_classes(head: LinearHead, varies: Tensor, counts: Tensor) -> LinearHead:
    """Add the classes that were left out: never predicted without a record, otherwise always predicted."""
    if varies.all():
        return head
    rows = torch.nonzero(varies).flatten().to(head.bias.device)
    # The log odds of half a record in twice as many.
    bias = torch.where(counts > 0, 1.0, -1.0).to(head.bias) * math.log(4 * float(counts.sum()) + 1)
    weight = head.weight.new_zeros(len(varies), head.weight.shape[1])
    return LinearHead(weight.index_copy(0, rows, head.weight), bias.index_copy(0, rows, head.bias))
