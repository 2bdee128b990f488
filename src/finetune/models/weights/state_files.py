"""How weights are written: safetensors, every tensor whole and on its own."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn


def separate_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state of `module` on the CPU, contiguous; a tensor under two names becomes two, as safetensors wants it."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict().items():
        own = tensor.detach().cpu().contiguous()
        address = own.untyped_storage().data_ptr()
        state[name] = own.clone() if address in seen else own
        seen.add(address)
    return state


def write_weights(module: nn.Module, path: Path) -> None:
    """Write the state of `module` to a safetensors file.

    Raises:
        OSError: the file cannot be written. SafetensorError: the same, from its writer.
    """
    save_file(separate_tensors(module), path, metadata={"format": "pt"})
