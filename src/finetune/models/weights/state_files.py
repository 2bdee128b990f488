"""Writes weights to safetensors files, without tensors that share storage."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn


def separate_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of `module` as contiguous CPU tensors, cloning shared ones as safetensors requires."""
    state: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in module.state_dict().items():
        copied = tensor.detach().cpu().contiguous()
        address = copied.untyped_storage().data_ptr()
        state[name] = copied.clone() if address in addresses else copied
        addresses.add(address)
    return state


def write_weights(module: nn.Module, path: Path) -> None:
    """Write the state dict of `module` to a safetensors file.

    Raises:
        OSError: the file cannot be written.
        SafetensorError: the same error, raised by the safetensors writer.
    """
    save_file(separate_tensors(module), path, metadata={"format": "pt"})
