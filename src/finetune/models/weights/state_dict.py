"""Reads state dicts of unknown origin, as plain tensors only, from various file types and wrappers."""

from __future__ import annotations

import errno
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from finetune.errors import UserError
from finetune.models.weights.file_types import describe_wrong_content, file_type

StateDict = dict[str, Tensor]
# Keys under which training scripts store the model, in order of precedence.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "network", "net", "module", "weights", "params")
_MAX_WRAPPER_DEPTH = 3
# Other parts of a training script's checkpoint, which may also contain tensors.
_TRAINING_STATE = re.compile(
    r"(^|_)(optim\w*|(lr_?)?sched\w*|(grad_?)?scaler|amp|callbacks|loops|hparams|hyper_parameters|rng\w*|args|config)(_|$)"
)
_AVERAGED = re.compile(r"(^|[._])(ema|averaged?|swa)([._]|$)")
# Wrapper modules of torch.compile, FSDP and activation checkpointing, at any depth.
_WRAPPER_MODULES = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_MAX_SHOWN = 3
# Errors that torch.load raises for files that are damaged or contain more than plain tensors.
_TORCH_LOAD_ERRORS = (
    UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
)
_UNPICKLED_GLOBAL = re.compile(r"GLOBAL (\S+)")
# Names in torchvision's older files, which its loaders still rename.
_LEGACY_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(\.mlp\.)linear_1\."), r"\g<1>0."),
    (re.compile(r"(\.mlp\.)linear_2\."), r"\g<1>3."),
)


@dataclass(frozen=True, slots=True)
class StateFile:
    """The tensors of a weight file.

    Attributes:
        tensors: by name, on the CPU, memory-mapped if the file type allows it.
        warnings: log messages about choices made among its contents.
    """

    tensors: StateDict
    warnings: tuple[str, ...] = ()


def read_state_file(path: Path) -> StateFile:
    """Read a safetensors or torch file, detected by its content, without unpickling arbitrary objects.

    Raises:
        UserError: the file is missing, damaged or ambiguous, or contains anything other than tensors.
        MemoryError: there is not enough memory for it.
    """
    if not path.is_file():
        raise UserError(f"The weight file {path.name} is missing: provide the model unchanged, as it was saved.")
    if (reason := describe_wrong_content(path)) is not None:
        raise UserError(reason)
    kind = file_type(path)
    is_safetensors = kind == "safetensors" or (kind != "torch" and path.suffix == ".safetensors")
    tensors, warnings = _unwrap(_read_safetensors(path) if is_safetensors else _read_torch(path), path)
    return StateFile(_strip_wrapper_modules(tensors, path), tuple(warnings))


def rename_legacy_tensors(state: Mapping[str, Tensor]) -> StateDict:
    """Rename tensors from torchvision's older names to its current ones."""
    return {_current_name(name): tensor for name, tensor in state.items()}


def strip_model_prefix(state: StateDict, names: Collection[str], description: str) -> tuple[StateDict, tuple[str, ...]]:
    """Strip the prefix of a model that is an attribute of a larger module.

    The prefix is the one with most of the model's names; tensors without it are dropped.

    Args:
        state: all tensors.
        names: tensor names of the model.
        description: description of the source, for messages.

    Returns:
        The tensors, and log messages about the prefix.

    Raises:
        UserError: there are several sets of the model's tensors, and not exactly one of them is an average.
    """
    counts: dict[str, int] = {}
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names:
                prefix = "".join(f"{part}." for part in parts[:start])
                counts[prefix] = counts.get(prefix, 0) + 1
    max_count = max(counts.values(), default=0)
    if 2 * max_count <= len(names):
        return state, ()  # another model's tensors, some of whose names have the same suffix
    prefixes = [prefix for prefix, count in counts.items() if count == max_count]
    averaged = [prefix for prefix in prefixes if _AVERAGED.search(prefix)]
    candidates = averaged if len(averaged) == 1 else prefixes
    if candidates == [""]:
        return state, ()
    if len(candidates) > 1:
        raise UserError(
            f"The {description} contains several sets of the model's tensors, with the prefixes"
            f" {', '.join(repr(prefix) for prefix in sorted(prefixes)[:_MAX_SHOWN])}: keep only the set to start from."
        )
    prefix = candidates[0]
    outside = sorted(name for name in state if not name.startswith(prefix))
    message = f"The {description}: read the tensors with the prefix {prefix!r}"
    if outside:
        message += f", ignored {len(outside)} others: {', '.join(outside[:_MAX_SHOWN])}"
    tensors = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return tensors, (f"{message}.",)


def _current_name(name: str) -> str:
    for pattern, new in _LEGACY_NAMES:
        name = pattern.sub(new, name)
    return name


def _strip_wrapper_modules(state: StateDict, path: Path) -> StateDict:
    tensors = {
        ".".join(part for part in name.split(".") if part not in _WRAPPER_MODULES): tensor
        for name, tensor in state.items()
    }
    if len(tensors) < len(state):
        raise UserError(
            f"{path.name} contains tensors under two names that differ only by {' or '.join(sorted(_WRAPPER_MODULES))}:"
            " save the state dict of the model itself."
        )
    return tensors


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        reraise_system_error(error)
        raise UserError(f"{path.name} is not a safetensors file, or is damaged: {error}.") from error


def _read_torch(path: Path) -> object:
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _TORCH_LOAD_ERRORS as error:
        reraise_system_error(error)
        raise unreadable_file_error(path.name, error) from error
    return content


def reraise_system_error(error: Exception) -> None:
    """Raise errors that the file did not cause: out of memory or a disk failure.

    Raises:
        MemoryError: no memory could be allocated.
        OSError: the disk failed.
    """
    if "allocate memory" in str(error):
        raise MemoryError(str(error)) from error
    if isinstance(error, OSError) and error.errno in {errno.EIO, errno.EACCES, errno.ENFILE, errno.EMFILE}:
        raise error


def unreadable_file_error(name: str, error: Exception) -> UserError:
    """Create the error for a torch file that needs unpickling, without torch's own advice to unpickle it."""
    match = _UNPICKLED_GLOBAL.search(str(error))
    reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    if match is not None:
        reason = f"it calls {match.group(1)}"
    elif isinstance(error, UnpicklingError):
        reason = "it is damaged, or contains more than tensors"
    return UserError(
        f"{name} cannot be read as plain tensors: {reason}. Files from a channel are never unpickled: save the state"
        " dict as safetensors, with safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."
    )


def _unwrap(content: object, path: Path) -> tuple[StateDict, list[str]]:
    """Return the state dict inside a training script's checkpoint, and log messages about the choice."""
    state_dicts = dict(_find_state_dicts(content)) if isinstance(content, Mapping) else {}
    if not state_dicts:
        raise UserError(
            f"{path.name} contains {type(content).__name__} instead of a state dict of names and tensors:"
            " save model.state_dict(), as safetensors."
        )
    key = _choose_state_dict(state_dicts, path)
    if len(state_dicts) == 1:
        return state_dicts[key], []
    return state_dicts[key], [
        f"{path.name} contains several state dicts ({', '.join(state_dicts)}): read {key!r}."
        " To start from another one, save it alone."
    ]


def _find_state_dicts(
    content: Mapping[object, object], path: str = "", depth: int = 0
) -> Iterator[tuple[str, StateDict]]:
    """Yield the state dicts inside `content` with their key paths, or `content` itself if it contains none."""
    inside = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, Mapping) and isinstance(key, str) and not _TRAINING_STATE.search(key.lower())
    }
    state_dicts = [
        pair
        for key, value in inside.items()
        if depth < _MAX_WRAPPER_DEPTH
        for pair in _find_state_dicts(value, f"{path}.{key}" if path else key, depth + 1)
    ]
    if state_dicts:
        yield from state_dicts
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    others = [value for key, value in content.items() if key not in tensors]
    if tensors and all(isinstance(value, bool | int | float | str | None) for value in others):
        yield path, tensors


def _choose_state_dict(state_dicts: Mapping[str, StateDict], path: Path) -> str:
    """Choose the averaged weights if they are complete, else the model's usual key, else the only one.

    If a checkpoint has both, timm and torchvision evaluate the averaged weights.
    """
    averaged = [key for key in state_dicts if _AVERAGED.search(key)]
    others = [key for key in state_dicts if key not in averaged]
    largest = max((len(state_dicts[key]) for key in others), default=0)
    if len(averaged) == 1 and len(state_dicts[averaged[0]]) >= largest:
        return averaged[0]
    usual_keys = [key for name in _WRAPPERS for key in others if key.partition(".")[0] == name]
    candidates = usual_keys[:1] or others
    if len(candidates) == 1:
        return candidates[0]
    raise UserError(
        f"{path.name} contains several state dicts ({', '.join(list(state_dicts)[:_MAX_SHOWN])}): save the one to start"
        " from alone."
    )
