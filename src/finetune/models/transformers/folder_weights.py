"""Finds and reads the weights of a transformers folder, in one file or in shards with an index."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from finetune.errors import UserError
from finetune.models.weights.containment import is_plain_name
from finetune.models.weights.file_types import describe_wrong_content
from finetune.models.weights.sources import CONFIG_FILE, read_json
from finetune.models.weights.state_dict import StateDict, StateFile, read_state_file
from finetune.models.weights.unsupported_formats import INDEX_SUFFIX, SHARD, describe_other_format

# In the lookup order of transformers.
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_CANDIDATES = tuple(name for single in _WEIGHT_FILES for name in (single, f"{single}{INDEX_SUFFIX}"))
# Names that transformers maps to the same tensor when loading.
_TENSOR_ALIASES = (
    (re.compile(r"LayerNorm\.gamma"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta"), "LayerNorm.bias"),
)
_MAX_SHOWN = 3


@dataclass(frozen=True, slots=True)
class FolderWeights:
    """The weights of a folder.

    Attributes:
        file: the file, or the index of the shards.
        tensors: by name, without the prefix of a wrapper such as DistributedDataParallel.
        warnings: log messages about how the file was interpreted.
    """

    file: Path
    tensors: StateDict
    warnings: tuple[str, ...]


def read_folder_weights(folder: Path, location: str, file_name: object, base_prefix: str) -> FolderWeights:
    """Read the file that transformers would read; all files named in an index must be in the folder.

    Args:
        folder: folder written by `save_pretrained()`.
        location: description of the folder for messages.
        file_name: value of `transformers_weights` in its configuration, a file name; None for the default names.
        base_prefix: prefix of the model's body in tensor names, which is kept.

    Raises:
        UserError: the weights are missing, damaged, incomplete, or outside the folder.
    """
    if file_name is not None and not is_plain_name(file_name):
        raise UserError(
            f"{CONFIG_FILE} in the {location} refers to weights outside its folder:"
            f" transformers_weights={str(file_name)[:80]!r}. Use the name of a file in the same folder, or remove the"
            " field."
        )
    names = (str(file_name),) if file_name is not None else _CANDIDATES
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise _missing_weights_error(folder, location, names)
    state_file = _read_shards(file, location) if file.name.endswith(INDEX_SUFFIX) else read_state_file(file)
    tensors, prefixes = _strip_common_prefixes(state_file.tensors, base_prefix)
    messages = [f"{file.name} in the {location}: read the tensors without the prefix {prefixes!r}."] if prefixes else []
    _refuse_duplicate_tensors(tensors, file, location, base_prefix)
    return FolderWeights(file, tensors, (*state_file.warnings, *messages))


def _read_shards(index: Path, location: str) -> StateFile:
    weight_map = read_json(index, location).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise UserError(
            f"{index.name} in the {location} has no weight_map: provide the index written by save_pretrained()."
        )
    outside = next((name for name in weight_map.values() if not is_plain_name(name)), None)
    if outside is not None:
        raise UserError(
            f"{index.name} in the {location} refers to a file outside its folder: {str(outside)[:80]!r}. Provide the"
            " shards next to it, as save_pretrained() writes them."
        )
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise UserError(
            f"{index.name} in the {location} lists {len(shards)} shards, of which {len(missing)} are missing:"
            f" {', '.join(missing[:_MAX_SHOWN])}. Provide all files of the folder."
        )
    tensors: StateDict = {}
    shard_by_tensor: dict[str, str] = {}
    for shard in shards:
        for name, tensor in read_state_file(index.parent / shard).tensors.items():
            if name in shard_by_tensor:
                raise UserError(
                    f"{name} is in two shards in the {location}, {shard_by_tensor[name]} and {shard}: provide the"
                    " shards of one save_pretrained() only."
                )
            shard_by_tensor[name] = shard
            tensors[name] = tensor
    misplaced = sorted(str(name) for name, shard in weight_map.items() if shard_by_tensor.get(name) != shard)
    if misplaced:
        raise UserError(
            f"{index.name} in the {location} does not describe its shards: {len(misplaced)} tensors are not in the"
            f" shard that it lists, such as {misplaced[0]} in {weight_map[misplaced[0]]}. Provide the index and the"
            " shards of one save_pretrained()."
        )
    return StateFile(tensors)


def _strip_common_prefixes(tensors: StateDict, base_prefix: str) -> tuple[StateDict, str]:
    """Strip prefixes shared by all names, except for the model's own prefix."""
    prefixes = ""
    while tensors:
        first = {name.partition(".")[0] if "." in name else "" for name in tensors if name != "n_averaged"}
        (prefix, *others) = first or {""}
        if others or prefix in {"", base_prefix}:
            break
        tensors = {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()}
        prefixes += f"{prefix}."
    return tensors, prefixes


def _refuse_duplicate_tensors(tensors: Mapping[str, Tensor], file: Path, location: str, base_prefix: str) -> None:
    """Refuse two names of the same tensor, of which transformers would load one and ignore the other."""
    names_by_tensor: dict[str, str] = {}
    for name in tensors:
        canonical_name = name.removeprefix(f"{base_prefix}.")
        for pattern, new in _TENSOR_ALIASES:
            canonical_name = pattern.sub(new, canonical_name)
        if canonical_name in names_by_tensor:
            raise UserError(
                f"{file.name} in the {location} contains the same tensor under two names,"
                f" {names_by_tensor[canonical_name]} and {name}: keep only the trained one."
            )
        names_by_tensor[canonical_name] = name


def _missing_weights_error(folder: Path, location: str, names: Sequence[str]) -> UserError:
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    shards = [name for name in files if SHARD.fullmatch(name)]
    variant = next(
        (name for name in files if re.fullmatch(r"(model|pytorch_model)\.\w+\.(safetensors|bin)", name)), None
    )
    if shards:
        usual_name = "model.safetensors" if shards[0].endswith(".safetensors") else "pytorch_model.bin"
        reason = (
            f"{usual_name}{INDEX_SUFFIX} is missing, but its shards exist ({', '.join(shards[:_MAX_SHOWN])}): add it"
        )
    elif variant is not None:
        reason = (
            f"it contains only the variant {variant}: rename it to {variant.split('.')[0]}.{variant.split('.')[-1]}"
        )
    else:
        other_format = describe_other_format(folder)
        reason = (
            other_format
            or f"it has {CONFIG_FILE}, but neither {' nor '.join(names)}; it contains {', '.join(files[:5])}"
        )
    return UserError(f"The weights in the {location} cannot be loaded: {reason}.")


def refuse_lfs_pointers(folder: Path, location: str, patterns: Sequence[str]) -> None:
    """Refuse a clone whose small files are Git LFS pointers, before a library fails to parse one.

    Raises:
        UserError: names the first such file.
    """
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        reason = describe_wrong_content(path) if path.is_file() else None
        if reason is not None and "LFS" in reason:
            raise UserError(f"The {location} is not complete: {reason}")
