"""Reads state dicts of unknown origin: plain tensors only, whatever file type and wrapper they come in."""

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
from finetune.models.weights.file_types import file_type, wrong_content

StateDict = dict[str, Tensor]
# Under these keys training scripts store the model; the first one counts where several are there.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "network", "net", "module", "weights", "params")
_DEEPEST_WRAPPER = 3
# Other parts of a training script's checkpoint, which may hold tensors, too.
_TRAINING_STATE = re.compile(
    r"(^|_)(optim\w*|(lr_?)?sched\w*|(grad_?)?scaler|amp|callbacks|loops|hparams|hyper_parameters|rng\w*|args|config)(_|$)"
)
_AVERAGED = re.compile(r"(^|[._])(ema|averaged?|swa)([._]|$)")
# Modules that torch.compile, FSDP and activation checkpointing put around others, at any depth.
_WRAPPER_MODULES = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_SHOWN = 3
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


@dataclass(frozen=True, slots=True)
class StateFile:
    """The tensors of a file of weights.

    Attributes:
        tensors: by name, on the CPU, memory-mapped where the file type allows it.
        warnings: choices that were made among its contents, for the log.
    """

    tensors: StateDict
    warnings: tuple[str, ...] = ()


def read_state_file(path: Path) -> StateFile:
    """Read a file of safetensors or of torch, recognized by its content; nothing is unpickled.

    Raises:
        UserError: the file is missing, damaged or ambiguous, or holds anything but tensors.
        MemoryError: there is no room for it.
    """
    if not path.is_file():
        raise UserError(f"The file of weights {path.name} is missing: give the model as it was saved, unchanged.")
    if (reason := wrong_content(path)) is not None:
        raise UserError(reason)
    kind = file_type(path)
    is_safetensors = kind == "safetensors" or (kind != "torch" and path.suffix == ".safetensors")
    tensors, warnings = _unwrap(_read_safetensors(path) if is_safetensors else _read_torch(path), path)
    return StateFile(_without_wrapper_modules(tensors, path), tuple(warnings))


def modern_names(state: Mapping[str, Tensor]) -> StateDict:
    """The same tensors under torchvision's present names."""
    return {_modern(name): tensor for name, tensor in state.items()}


def without_prefix(state: StateDict, names: Collection[str], words: str) -> tuple[StateDict, tuple[str, ...]]:
    """The tensors of a model, without the prefix that its attribute in a larger module gives their names.

    The prefix is the one under which most of the model's names are found; tensors outside it are left out.

    Args:
        state: all tensors.
        names: the model's own.
        words: the source of the tensors, for messages.

    Returns:
        the tensors, and what to log about the prefix.

    Raises:
        UserError: two complete sets of the model's tensors, neither of which is an average.
    """
    counts: dict[str, int] = {}
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names:
                prefix = "".join(f"{part}." for part in parts[:start])
                counts[prefix] = counts.get(prefix, 0) + 1
    most = max(counts.values(), default=0)
    if 2 * most <= len(names):
        return state, ()  # another network's, some of whose names end alike
    prefixes = [prefix for prefix, count in counts.items() if count == most]
    averaged = [prefix for prefix in prefixes if _AVERAGED.search(prefix)]
    chosen = averaged if len(averaged) == 1 else prefixes
    if chosen == [""]:
        return state, ()
    if len(chosen) > 1:
        raise UserError(
            f"The {words} holds several sets of the network's tensors, with the prefixes"
            f" {', '.join(repr(prefix) for prefix in sorted(prefixes)[:_SHOWN])}: leave the one to start from."
        )
    prefix = chosen[0]
    outside = sorted(name for name in state if not name.startswith(prefix))
    notes = f"The {words}: read the tensors with the prefix {prefix!r}"
    if outside:
        notes += f", and left out {len(outside)} others: {', '.join(outside[:_SHOWN])}"
    kept = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return kept, (f"{notes}.",)


def _modern(name: str) -> str:
    for pattern, new in _OLD_NAMES:
        name = pattern.sub(new, name)
    return name


def _without_wrapper_modules(state: StateDict, path: Path) -> StateDict:
    tensors = {
        ".".join(part for part in name.split(".") if part not in _WRAPPER_MODULES): tensor
        for name, tensor in state.items()
    }
    if len(tensors) < len(state):
        raise UserError(
            f"{path.name} holds tensors under two names that differ only by {' or '.join(sorted(_WRAPPER_MODULES))}:"
            " save the state dict of the model itself."
        )
    return tensors


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise_if_of_the_machine(error)
        raise UserError(f"{path.name} is no safetensors file, or it is damaged: {error}.") from error


def _read_torch(path: Path) -> object:
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNREADABLE as error:
        raise_if_of_the_machine(error)
        raise not_plain_tensors(path.name, error) from error
    return content


def raise_if_of_the_machine(error: Exception) -> None:
    """Raise errors on which the file has no influence: memory that is exhausted, a disk that fails.

    Raises:
        MemoryError: no memory could be allocated.
        OSError: the disk failed.
    """
    if "allocate memory" in str(error):
        raise MemoryError(str(error)) from error
    if isinstance(error, OSError) and error.errno in {errno.EIO, errno.EACCES, errno.ENFILE, errno.EMFILE}:
        raise error


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


def _unwrap(content: object, path: Path) -> tuple[StateDict, list[str]]:
    """The state dict inside a checkpoint of a training script, and what to log about the choice."""
    found = dict(_state_dicts(content)) if isinstance(content, Mapping) else {}
    if not found:
        raise UserError(
            f"{path.name} holds no state dict, that is names with tensors, but {type(content).__name__}:"
            " save model.state_dict(), as safetensors."
        )
    chosen = _choose(found, path)
    if len(found) == 1:
        return found[chosen], []
    return found[chosen], [
        f"{path.name} holds several state dicts ({', '.join(found)}): read {chosen!r}."
        " Save another one alone to begin with that."
    ]


def _state_dicts(content: Mapping[object, object], path: str = "", depth: int = 0) -> Iterator[tuple[str, StateDict]]:
    """State dicts inside `content` with the keys that lead to them; `content` itself where nothing in it is one."""
    inside = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, Mapping) and isinstance(key, str) and not _TRAINING_STATE.search(key.lower())
    }
    found = [
        pair
        for key, value in inside.items()
        if depth < _DEEPEST_WRAPPER
        for pair in _state_dicts(value, f"{path}.{key}" if path else key, depth + 1)
    ]
    if found:
        yield from found
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    others = [value for key, value in content.items() if key not in tensors]
    if tensors and all(isinstance(value, bool | int | float | str | None) for value in others):
        yield path, tensors


def _choose(found: Mapping[str, StateDict], path: Path) -> str:
    """The averaged weights where they are complete, else the model's usual key, else the only one.

    Averaged weights are what timm and torchvision evaluate when a checkpoint holds both.
    """
    averaged = [key for key in found if _AVERAGED.search(key)]
    others = [key for key in found if key not in averaged]
    largest = max((len(found[key]) for key in others), default=0)
    if len(averaged) == 1 and len(found[averaged[0]]) >= largest:
        return averaged[0]
    usual = [key for name in _WRAPPERS for key in others if key.partition(".")[0] == name]
    candidates = usual[:1] or others
    if len(candidates) == 1:
        return candidates[0]
    raise UserError(
        f"{path.name} holds several state dicts ({', '.join(list(found)[:_SHOWN])}): save the one to start from alone."
    )
