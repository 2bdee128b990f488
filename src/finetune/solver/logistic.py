"""L2-regularized logistic regression, multinomial or of independent labels, minimized by L-BFGS in float64.

The result does not depend on the number of threads: rows are divided into chunks by the size of the problem alone, each
chunk is computed in a single thread, and the sums of the chunks are added in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from finetune.runtime.threads import limit_threads
from finetune.runtime.worker_pool import WorkerPool

_CHUNK_MACS = 1 << 22
"""Multiply-adds per chunk of rows: milliseconds on a core, many times the cost of handing a chunk to a thread."""
_HISTORY = 20
_NO_CHANGE = 1e-16
"""Change of the objective or of the parameters below which L-BFGS ends."""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A linear layer.

    Attributes:
        weight: float64 `[classes, width]`.
        bias: float64 `[classes]`.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return `[rows, classes]` for `[rows, width]`."""
        return torch.addmm(self.bias, features, self.weight.T)

    def scaled(self, factor: float) -> LinearHead:
        """Return the head whose logits are multiplied by a factor."""
        return LinearHead(self.weight * factor, self.bias * factor)


@dataclass(frozen=True, slots=True)
class Problem:
    """Records of a logistic regression.

    Attributes:
        features: float64 `[rows, width]`, of zero mean and unit variance.
        targets: float64 `[rows, classes]` of 0 and 1.
        weights: float64, `[rows, 1]` or `[1, classes]`: factors of the losses.
        exclusive: whether each record has exactly one class (softmax), or the classes are independent (sigmoid).
    """

    features: Tensor
    targets: Tensor
    weights: Tensor
    exclusive: bool

    def zero_head(self) -> LinearHead:
        """Return a head of zeros."""
        classes, width = self.targets.shape[1], self.features.shape[1]
        return LinearHead(self.features.new_zeros(classes, width), self.features.new_zeros(classes))

    def chunks(self, parts: Iterable[range]) -> list[slice]:
        """Divide ranges of rows into chunks for `Workers`; a GPU computes each range at once."""
        rows = max(1, _CHUNK_MACS // max(1, self.features.shape[1] * self.targets.shape[1]))
        return [
            slice(start, min(start + rows, part.stop) if self.features.device.type == "cpu" else part.stop)
            for part in parts
            if len(part)
            for start in (part[::rows] if self.features.device.type == "cpu" else part[:1])
        ]

    def losses(self, head: LinearHead, rows: slice) -> Tensor:
        """Return the losses of records without class weights, averaged over independent classes; `[rows]`."""
        logits, targets = head.logits(self.features[rows]), self.targets[rows]
        if self.exclusive:
            return logits.logsumexp(dim=1) - (logits * targets).sum(dim=1)
        return (functional.softplus(logits) - logits * targets).mean(dim=1)

    def correct(self, head: LinearHead, rows: slice) -> Tensor:
        """Return whether the most probable class, or every independent class, is predicted correctly; bool `[rows]`."""
        logits, targets = head.logits(self.features[rows]), self.targets[rows]
        if self.exclusive:
            return logits.argmax(dim=1) == targets.argmax(dim=1)
        return ((logits > 0) == (targets > 0.5)).all(dim=1)

    def gradient(self, head: LinearHead, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weighted loss summed over rows, 0-d, and its gradients by weight and bias."""
        features, targets = self.features[rows], self.targets[rows]
        weights = self.weights[rows] if self.exclusive else self.weights
        logits = head.logits(features)
        if self.exclusive:
            normalizer = logits.logsumexp(dim=1, keepdim=True)
            loss = (weights * (normalizer - (logits * targets).sum(dim=1, keepdim=True))).sum()
            slope = weights * ((logits - normalizer).exp() - targets)
        else:
            loss = (weights * (functional.softplus(logits) - logits * targets)).sum()
            slope = weights * (logits.sigmoid() - targets)
        return loss, slope.T @ features, slope.sum(dim=0)


class Workers:
    """Computes the chunks of a problem, each in a single thread of a CPU, concurrently if there are several."""

    def __init__(self, pool: WorkerPool | None) -> None:
        self._pool = pool

    def gradient(self, problem: Problem, head: LinearHead, chunks: Sequence[slice]) -> tuple[Tensor, Tensor, Tensor]:
        """Return `Problem.gradient` summed over the chunks in order."""
        compute = partial(problem.gradient, head)
        results: Iterator[tuple[Tensor, Tensor, Tensor]]
        if self._pool is None or len(chunks) == 1:
            results = map(compute, chunks)
        else:
            futures = [self._pool.submit(partial(compute, chunk)) for chunk in chunks]
            results = (future.result() for future in futures)
        total, weight, bias = next(results)
        for loss, weight_part, bias_part in results:
            total, weight, bias = total + loss, weight.add_(weight_part), bias.add_(bias_part)
        return total, weight, bias


@contextmanager
def open_workers(device: torch.device) -> Iterator[Workers]:
    """Open as many workers as this process has threads; a GPU needs none."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield Workers(None)
        return
    with closing(WorkerPool(threads, "head-solver")) as pool, limit_threads(single_threaded=True):
        yield Workers(pool)


@dataclass(frozen=True, slots=True)
class Stopping:
    """When L-BFGS ends.

    Attributes:
        tolerance: largest element of the gradient of the mean loss.
        iterations: maximum number of iterations.
        check: called before each evaluation; ends the job by an exception.
    """

    tolerance: float
    iterations: int
    check: Callable[[], None] = lambda: None


def minimize(
    problem: Problem,
    parts: Sequence[range],
    strength: float,
    *,
    start: LinearHead,
    stopping: Stopping,
    workers: Workers,
) -> LinearHead:
    """Minimize the summed loss of rows plus `strength / 2` times the squared norm of the weight; biases are free.

    This is the objective of scikit-learn's `LogisticRegression` with `C = 1 / strength`.

    Args:
        problem: all records.
        parts: ranges of the rows to use.
        strength: strength of the regularization, above 0.
        start: first guess, such as the result for a stronger regularization.
        stopping: accuracy and interruption.
        workers: computes the chunks.
    """
    count, chunks = sum(map(len, parts)), problem.chunks(parts)
    weight, bias = start.weight.clone(), start.bias.clone()
    weight.grad, bias.grad = torch.empty_like(weight), torch.empty_like(bias)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=stopping.iterations,
        tolerance_grad=stopping.tolerance,
        tolerance_change=_NO_CHANGE,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> Tensor:
        stopping.check()
        loss, weight_gradient, bias_gradient = workers.gradient(problem, LinearHead(weight, bias), chunks)
        weight.grad = weight_gradient.add_(weight, alpha=strength).div_(count)
        bias.grad = bias_gradient.div_(count)
        return (loss + 0.5 * strength * weight.square().sum()) / count

    optimizer.step(evaluate)  # type: ignore[no-untyped-call]  # untyped in torch
    return LinearHead(weight, bias)
