"""Validates the form of a state before it is restored."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def check_keys(found: object, like: object, name: str) -> None:
    """Compare types, keys, shapes and dtypes of a nested state with those of a reference.

    Args:
        found: State read from a checkpoint.
        like: Reference state to be replaced; for lists and tuples only the type is compared.
        name: Name of the state, for the error message.

    Raises:
        ValueError: The states differ; the message says where.
    """
    if isinstance(like, Tensor):
        if not isinstance(found, Tensor) or found.shape != like.shape or found.dtype != like.dtype:
            raise ValueError(f"{name} is {_told(found)}, expected {_told(like)}")
        return
    if type(found) is not type(like):
        raise ValueError(f"{name} is {_told(found)}, expected {_told(like)}")
    if isinstance(like, Mapping) and isinstance(found, Mapping):
        if found.keys() != like.keys():
            differing = sorted(str(key) for key in found.keys() ^ like.keys())
            raise ValueError(f"{name} lacks or has besides: {', '.join(differing[:3])}")
        for key, value in like.items():
            check_keys(found[key], value, f"{name}.{key}")


def check_count(found: object, name: str) -> None:
    """Check that a value is a non-negative integer.

    Raises:
        ValueError: It is not.
    """
    if type(found) is not int or found < 0:
        raise ValueError(f"{name} is {_told(found)}, expected a number from 0 on")


def _told(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    if isinstance(value, Mapping):
        return "a mapping"
    return f"{value!r:.60} ({type(value).__name__})"
