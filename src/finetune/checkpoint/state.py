"""Flattens nested state into named tensors and JSON, restores it bit for bit, and validates its structure.

JSON has no tuples, non-string keys, NaN or tensors. These are written as an object with the key `!`, whose value is the
type; everything else is written unchanged:

| value | JSON |
|---|---|
| tensor | `{"!": "tensor", "name": "state.0.exp_avg"}`, and `"stride"` if it is not contiguous |
| tuple | `{"!": "tuple", "items": [...]}` |
| mapping with a non-string key, or with the key `!` | `{"!": "mapping", "items": [[key, value], ...]}` |
| NaN, infinity | `{"!": "float", "bits": "7ff8000000000000"}`, the IEEE 754 double |
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_TAG = "!"
_RESERVED_NAMES = frozenset({"", "__metadata__"})  # the second is a header entry of safetensors


@dataclass(frozen=True, slots=True)
class FlatState:
    """Flattened form of a nested state.

    Attributes:
        tensors: All tensors of the state under unique names: their paths, joined by dots.
        values: Everything else, with references to the tensors.
    """

    tensors: Mapping[str, Tensor]
    values: Json


def flatten_state(state: object) -> FlatState:
    """Flatten a nested state; tensors are referenced, not copied.

    Args:
        state: Nested mappings, lists and tuples of tensors, None, bool, int, float and str. Mappings become dicts.

    Raises:
        TypeError: The state contains another type; the message has its path.
    """
    flattening = _Flattening()
    values = flattening.encode(state, "")
    return FlatState(flattening.tensors, values)


def unflatten_state(flat: FlatState) -> Any:  # noqa: ANN401 - inverse of a function that takes any nested state
    """Restore a state with equal structure, order, bits and memory layout of its tensors.

    Raises:
        ValueError: The values refer to a missing tensor or do not have the expected form.
    """
    return _decode(flat.values, flat.tensors)


def check_structure(state: object, reference: object, name: str) -> None:
    """Compare types, keys, shapes and dtypes of a nested state with those of a reference.

    Args:
        state: State read from a checkpoint.
        reference: Reference state to be replaced; for lists and tuples only the type is compared.
        name: Name of the state, for the error message.

    Raises:
        ValueError: The states differ; the message says where.
    """
    if isinstance(reference, Tensor):
        if not isinstance(state, Tensor) or state.shape != reference.shape or state.dtype != reference.dtype:
            raise ValueError(f"{name} is {_describe(state)}, expected {_describe(reference)}")
        return
    if type(state) is not type(reference):
        raise ValueError(f"{name} is {_describe(state)}, expected {_describe(reference)}")
    if isinstance(reference, Mapping) and isinstance(state, Mapping):
        if state.keys() != reference.keys():
            differing = sorted(str(key) for key in state.keys() ^ reference.keys())
            raise ValueError(f"{name} has missing or unexpected keys: {', '.join(differing[:3])}")
        for key, value in reference.items():
            check_structure(state[key], value, f"{name}.{key}")


def check_count(value: object, name: str) -> None:
    """Check that a value is a non-negative integer.

    Raises:
        ValueError: It is not.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {_describe(value)}, expected a non-negative integer")


@dataclass(slots=True)
class _Flattening:
    """Collects tensors while traversing a state."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def encode(self, value: object, path: str) -> Json:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return _encode_float(float(value))
        if isinstance(value, Tensor):
            return self._encode_tensor(value, path)
        if isinstance(value, Mapping):
            return self._encode_mapping(value, path)
        if isinstance(value, list | tuple):
            items: list[Json] = [self.encode(item, _join(path, index)) for index, item in enumerate(value)]
            return items if isinstance(value, list) else {_TAG: "tuple", "items": items}
        raise TypeError(f"state {path!r} is a {type(value).__name__}; it cannot be written to a checkpoint")

    def _encode_mapping(self, mapping: Mapping[Any, object], path: str) -> Json:
        if _TAG not in mapping and all(isinstance(key, str) for key in mapping):
            return {str(key): self.encode(value, _join(path, key)) for key, value in mapping.items()}
        items: list[Json] = []
        for key, value in mapping.items():
            if isinstance(key, Tensor):
                raise TypeError(f"state {path!r} has a tensor as a key; it cannot be written to a checkpoint")
            items.append([self.encode(key, path), self.encode(value, _join(path, key))])
        return {_TAG: "mapping", "items": items}

    def _encode_tensor(self, tensor: Tensor, path: str) -> Json:
        if tensor.layout != torch.strided:
            raise TypeError(f"state {path!r} is a tensor of layout {tensor.layout}; only dense ones can be written")
        name, number = path, 1
        while name in self.tensors or name in _RESERVED_NAMES:
            number += 1
            name = f"{path}#{number}"
        self.tensors[name] = tensor.detach()
        reference: dict[str, Json] = {_TAG: "tensor", "name": name}
        stride = copied_stride(tensor)
        if stride != _contiguous_stride(tensor.shape):
            reference["stride"] = list(stride)
        return reference


def copied_stride(tensor: Tensor) -> tuple[int, ...]:
    """Return the stride of a dense copy of a tensor with the same order of dimensions in memory.

    The order in which a kernel traverses memory may affect the last bit of its result (channels-last or not, even where
    a dimension has size 1), so a restored tensor must have the same memory layout as before.
    """
    stride = tensor.stride()
    if stride == _contiguous_stride(tensor.shape):
        return stride
    return torch.empty_like(tensor, device="meta").stride()


def _contiguous_stride(shape: torch.Size) -> tuple[int, ...]:
    stride = [1] * len(shape)
    for dimension in range(len(shape) - 2, -1, -1):
        stride[dimension] = stride[dimension + 1] * max(shape[dimension + 1], 1)
    return tuple(stride)


def _encode_float(value: float) -> Json:
    if math.isfinite(value):
        return value
    return {_TAG: "float", "bits": struct.pack(">d", value).hex()}


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _decode(value: Json, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 - as unflatten_state
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TAG not in value:
        return {key: _decode(item, tensors) for key, item in value.items()}
    try:
        return _decode_tagged(value, tensors)
    except (KeyError, TypeError, RuntimeError, OverflowError, struct.error) as error:
        raise ValueError(f"a value tagged {value[_TAG]!r} cannot be read: {error}") from error


def _decode_tagged(value: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 - as unflatten_state
    match value[_TAG]:
        case "tensor":
            return _with_stride(tensors[value["name"]], value.get("stride"))
        case "tuple":
            return tuple(_decode(item, tensors) for item in value["items"])
        case "mapping":
            return {_decode(key, tensors): _decode(item, tensors) for key, item in value["items"]}
        case "float":
            return struct.unpack(">d", bytes.fromhex(value["bits"]))[0]
        case other:
            raise KeyError(other)


def _with_stride(tensor: Tensor, stride: list[int] | None) -> Tensor:
    if stride is None or list(tensor.stride()) == stride:
        return tensor
    # A copy has no gaps or overlaps: the stride of each dimension is the extent of those with smaller strides.
    extent = 1
    for step, size in sorted(zip(stride, tensor.shape, strict=True)):
        if step != extent and size > 1 and tensor.numel():
            raise ValueError(f"a tensor {list(tensor.shape)} has the stride {stride}")
        extent *= size
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    if isinstance(value, Mapping):
        return "a mapping"
    return f"{value!r:.60} ({type(value).__name__})"
