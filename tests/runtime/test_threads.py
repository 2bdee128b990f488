"""Computations after a small head use all threads again."""

from __future__ import annotations

import pytest
import torch

from finetune.runtime.threads import limit_threads


@pytest.mark.parametrize("thread_count", [1, 3])
def test_number_of_threads_is_restored(thread_count: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(thread_count)
    try:
        with limit_threads(single_threaded=False):
            assert torch.get_num_threads() == thread_count
        with pytest.raises(ValueError, match="of the step"), limit_threads(single_threaded=True):
            assert torch.get_num_threads() == 1
            raise ValueError("of the step")
        assert torch.get_num_threads() == thread_count
    finally:
        torch.set_num_threads(before)
