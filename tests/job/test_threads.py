"""Initial and maximum number of threads that prepare batches."""

from __future__ import annotations

import pytest
import torch

from finetune.job.data.loaders import worker_counts


@pytest.mark.parametrize(
    ("requested", "device", "cores", "expected"),
    [
        (None, "cpu", 8, (2, 8)),
        (None, "cpu", 1, (1, 1)),
        (None, "cpu", 64, (2, 16)),
        (None, "cuda", 8, (7, 8)),
        (None, "cuda", 1, (1, 1)),
        (None, "cuda", 64, (16, 16)),
        (0, "cpu", 8, (0, 0)),
        (5, "cuda", 2, (5, 5)),
    ],
)
def test_worker_counts(requested: int | None, device: str, cores: int, expected: tuple[int, int]) -> None:
    assert worker_counts(requested, torch.device(device), cores) == expected
