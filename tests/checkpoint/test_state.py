"""States survive flattening and rebuilding bit for bit."""

from __future__ import annotations

import json
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from finetune.checkpoint import FlatState, flatten_state, unflatten_state
from tests.checkpoint.states import states_equal

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.floats(allow_nan=False)
    | st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack(">d", struct.pack(">Q", bits))[0])
)
_TENSORS = st.lists(st.integers(0, 3), max_size=3).map(torch.rand)
_KEYS = st.text("ab.!#", max_size=3) | st.integers() | st.tuples(st.integers(), st.text(max_size=2)) | st.none()
_STATES = st.recursive(
    _SCALARS | _TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(_KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)

_OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
    "adamw_tensor_rate": lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-3)),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3),
    "nag": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
}


def through_json(state: object) -> Any:  # noqa: ANN401 - as unflatten_state
    flat = flatten_state(state)
    copies = {name: tensor.clone() for name, tensor in flat.tensors.items()}
    return unflatten_state(FlatState(copies, json.loads(json.dumps(flat.values, allow_nan=False))))


@given(_STATES)
def test_nested_state_round_trips_bit_for_bit(state: object) -> None:
    assert states_equal(through_json(state), state)


def test_colliding_paths_get_unique_names() -> None:
    state = {"a.b": torch.ones(1), "a": {"b": torch.zeros(2), 0: torch.zeros(3), "0": torch.zeros(4)}}
    assert len(flatten_state(state).tensors) == 4
    assert states_equal(through_json(state), state)


def test_tensor_names_equal_parameter_names() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert list(flatten_state(model.state_dict()).tensors) == list(model.state_dict())


def test_reserved_safetensors_names_are_not_used() -> None:
    assert set(flatten_state({"__metadata__": torch.ones(1)}).tensors) == {"__metadata__#2"}
    assert set(flatten_state(torch.ones(1)).tensors) == {"#2"}


def test_channels_last_layout_is_preserved() -> None:
    weight = torch.rand(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    flat = flatten_state({"weight": weight})
    written = FlatState({"weight": weight.contiguous()}, flat.values)
    assert states_equal(unflatten_state(written), {"weight": weight})


@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_restored_optimizer_continues_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    model, twin = _build_model(), _build_model()
    optimizer, twin_optimizer = (_OPTIMIZERS[name](module.parameters()) for module in (model, twin))
    images = torch.rand(2, 3, 5, 5)
    for _ in range(3):
        _step(model, optimizer, images)
    state = optimizer.state_dict()
    restored = through_json(state)
    assert states_equal(restored, state)
    twin.load_state_dict(through_json(model.state_dict()))
    twin_optimizer.load_state_dict(restored)
    for module, module_optimizer in ((model, optimizer), (twin, twin_optimizer)):
        _step(module, module_optimizer, images)
    assert states_equal(dict(twin.state_dict()), dict(model.state_dict()))


def test_gradient_scaler_round_trips() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # without a GPU it disables itself with a warning
        state = GradScaler("cpu").state_dict()
    assert state
    assert states_equal(through_json(state), state)


def test_mapping_order_is_preserved() -> None:
    assert list(through_json(OrderedDict(z=1, a=2))) == ["z", "a"]


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, torch.rand(2, 2).to_sparse()])
def test_unsupported_value_is_reported_with_path(value: object) -> None:
    with pytest.raises(TypeError, match=r"'groups\.0\.x'"):
        flatten_state({"groups": [{"x": value}]})


@pytest.mark.parametrize(
    "values",
    [{"!": "tensor", "name": "absent"}, {"!": "unheard of"}, {"!": "float", "bits": "7f"}, {"!": "tuple"}, {"!": 3}],
)
def test_malformed_values_are_rejected(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        unflatten_state(FlatState({}, values))


def _build_model() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2))
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor) -> None:
    optimizer.zero_grad()
    model(images).square().sum().backward()
    optimizer.step()
