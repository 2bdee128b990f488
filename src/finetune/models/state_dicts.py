"""How a state dict of unknown origin is read: tensors only, whatever wrapper they came in."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from finetune.errors import UserError

StateDict = dict[str, Tensor]
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")
# What torch's reader raises for files that are damaged, or that are no plain tensors.
_UNREADABLE = (
    UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
)
_CALLED = re.compile(r"GLOBAL (\S+)")
# Names in torchvision's own older files, which its loaders still rename.
_OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(\.mlp\.)linear_1\."), r"\g<1>0."),
    (re.compile(r"(\.mlp\.)linear_2\."), r"\g<1>3."),
)


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of a `.safetensors`, `.pth` or `.pt` file onto the CPU; nothing is unpickled.

    Raises:
        UserError: the file is damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise UserError(f"The file of weights {path.name} is missing: give the model as it was saved, unchanged.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return modern_names(_unwrap(content, path))


def modern_names(state: Mapping[str, Tensor]) -> StateDict:
    """The same tensors without wrappers' prefixes, under torchvision's present names."""
    return {_modern(name): tensor for name, tensor in state.items()}


def _modern(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for pattern, new in _OLD_NAMES:
        name = pattern.sub(new, name)
    return name


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path.name} is no safetensors file, or it is damaged: {error}.") from error


def _read_torch(path: Path) -> object:
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNREADABLE as error:
        raise not_plain_tensors(path.name, error) from error
    return content


def not_plain_tensors(name: str, error: Exception) -> UserError:
    """The error for a file of torch that would need unpickling; torch's own advice is to unpickle it."""
    called = _CALLED.search(str(error))
    reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    if called is not None:
        reason = f"it wants to call {called.group(1)}"
    elif isinstance(error, UnpicklingError):
        reason = "it is damaged, or holds more than tensors"
    return UserError(
        f"{name} cannot be read as plain tensors: {reason}. A file from a channel is never unpickled: save the state"
        " dict as safetensors, with safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."
    )


def _unwrap(content: object, path: Path) -> StateDict:
    if isinstance(content, Mapping):
        inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), content)
        tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(inner):
            return tensors
    raise UserError(
        f"{path.name} holds no state dict, that is names with tensors, but {type(content).__name__}:"
        " save model.state_dict(), as safetensors."
    )
