"""Snapshots copy the state at one moment, and reuse their memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.checkpoint import CheckpointStore, Snapshot, SnapshotBuffers, take_snapshot, unflatten_state
from tests.checkpoint.states import StaticState, checkpoint_info, states_equal


def addresses(snapshot: Snapshot) -> list[int]:
    return [tensor.data_ptr() for part in snapshot.parts.values() for tensor in part.tensors.values()]


def make_state() -> StaticState:
    channels_last = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    return StaticState({"weight": torch.rand(5, 5), "filter": channels_last, "history": [1, {"loss": 0.5}]})


def test_snapshot_is_unaffected_by_later_training(tmp_path: Path) -> None:
    live = make_state()
    expected = unflatten_state(take_snapshot({"part": live}).parts["part"])
    snapshot = take_snapshot({"part": live})
    live.state["weight"].zero_()
    live.state["history"][1]["loss"] = 0.0
    live.state["history"].append(2)
    store = CheckpointStore(tmp_path)
    store.write(snapshot, checkpoint_info(1))
    loaded = store.newest_complete()
    assert loaded is not None
    assert states_equal(loaded.parts["part"], expected)
    assert not states_equal(loaded.parts["part"], live.state)


def test_trainable_parameters_are_copied_without_autograd_graph() -> None:
    model = nn.Linear(2, 2)
    snapshot = take_snapshot({"model": model})
    assert not any(tensor.requires_grad for tensor in snapshot.parts["model"].tensors.values())


def test_released_memory_is_reused() -> None:
    buffers, live = SnapshotBuffers(), make_state()
    first = buffers.take({"part": live})
    used = addresses(first)
    first.release()
    live.state["weight"].add_(1)
    second = buffers.take({"part": live})
    assert addresses(second) == used
    assert states_equal(unflatten_state(second.parts["part"]), live.state)


def test_memory_in_use_is_not_overwritten() -> None:
    buffers, live = SnapshotBuffers(), make_state()
    first = buffers.take({"part": live})
    content = first.parts["part"].tensors["weight"].clone()
    live.state["weight"].zero_()
    second = buffers.take({"part": live})
    assert not set(addresses(first)) & set(addresses(second))
    assert torch.equal(first.parts["part"].tensors["weight"], content)


def test_double_release_does_not_affect_other_snapshots() -> None:
    buffers, live = SnapshotBuffers(), make_state()
    first = buffers.take({"part": live})
    first.release()
    second = buffers.take({"part": live})
    first.release()
    third = buffers.take({"part": live})
    assert not set(addresses(second)) & set(addresses(third))


def test_changed_shape_or_dtype_gets_new_memory() -> None:
    buffers = SnapshotBuffers()
    for tensor in (torch.rand(3), torch.rand(4), torch.rand(4).double(), torch.rand(2, 2).T):
        snapshot = buffers.take({"part": StaticState({"x": tensor})})
        assert states_equal(unflatten_state(snapshot.parts["part"]), {"x": tensor})
        snapshot.release()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_copy_is_pinned_and_complete_on_return() -> None:
    live = StaticState({"weight": torch.rand(1000, 1000, device="cuda")})
    expected = live.state["weight"].cpu()
    snapshot = take_snapshot({"part": live})
    live.state["weight"].zero_()
    copy = snapshot.parts["part"].tensors["weight"]
    assert copy.is_pinned()
    assert torch.equal(copy, expected)
