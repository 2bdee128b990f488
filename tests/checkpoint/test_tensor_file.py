"""Tensor files are readable by the safetensors library, and their headers match their contents."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from finetune.checkpoint.tensor_file import read_tensors, write_tensors
from tests.checkpoint.states import bits

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.complex64, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool),
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A tensor of any dtype with arbitrary bytes, including every NaN."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    size = torch.Size(shape).numel() * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        content = bytes(byte & 1 for byte in content)
    flat = torch.tensor(list(content), dtype=torch.uint8).view(dtype) if content else torch.empty(0, dtype=dtype)
    return flat.reshape(shape)


NAMED = st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), tensors(), max_size=4).filter(
    lambda named: "__metadata__" not in named
)


@given(NAMED)
def test_all_dtypes_round_trip_here_and_in_safetensors(
    tmp_path_factory: pytest.TempPathFactory, named: dict[str, Tensor]
) -> None:
    path = tmp_path_factory.mktemp("tensors") / "file.safetensors"
    entry = write_tensors(path, named)
    content = path.read_bytes()
    assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    for loaded in (read_tensors(path), load_file(path)):
        assert loaded.keys() == named.keys()
        for name, tensor in named.items():
            assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
            assert bits(loaded[name]) == bits(tensor)


def test_tensor_larger_than_chunk_is_written_completely(tmp_path: Path) -> None:
    tensor = torch.arange(3_000_001, dtype=torch.int32)
    write_tensors(tmp_path / "file", {"large": tensor})
    assert torch.equal(read_tensors(tmp_path / "file")["large"], tensor)


def test_loaded_tensors_are_independent_of_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_tensors(path, {"weight": torch.ones(1000)})
    loaded = read_tensors(path)["weight"]
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(loaded, torch.ones(1000))


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "file", {})
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_unsupported_dtype_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"'odd'.*complex128"):
        write_tensors(tmp_path / "file", {"odd": torch.zeros(1, dtype=torch.complex128)})
