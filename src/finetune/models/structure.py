"""Finds the layer groups of a model from its module structure and one recorded forward pass.

The blocks are the children of the list or sequence of modules with the most parameters. What the forward pass calls
before the first block is the stem; what it calls after the last one belongs to the last block or to the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from finetune.models.backbone import UNDIVIDED_GROUP
from finetune.models.layer_groups import ModelLayout

EXAMPLE_RECORDS = 2
"""Records of an example: two, so that tensors with one row per record are recognized by their shape."""
_LISTS = (nn.ModuleList, nn.Sequential)


class UndividedModelError(Exception):
    """The structure of a model has no boundaries between its blocks; the message is the reason, as a clause."""


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What is known of a model before it runs.

    Attributes:
        base: path of the encoder; empty for the whole model except its head.
        classifier: path of the linear layer that computes the logits.
        head: paths of other modules of the head within the encoder.
        stem_name: name of the first group.
        pooled_in_head: whether a module of the encoder that reduces a record to one vector belongs to the head.
    """

    base: str
    classifier: str
    head: tuple[str, ...] = ()
    stem_name: str = "stem"
    pooled_in_head: bool = False


@dataclass(slots=True)
class _Calls:
    """Calls of modules in the recorded forward pass: positions in the order of calls, and shapes of the output."""

    positions: dict[str, list[int]] = field(default_factory=dict)
    vectors: set[str] = field(default_factory=set)


def find_layout(model: nn.Module, parts: ModelParts, example: Callable[[nn.Module], object]) -> ModelLayout:
    """Find the groups of a model: its stem, one group for each block, and its head.

    Args:
        model: model in evaluation mode; it is not modified.
        parts: encoder and classifier.
        example: runs a module on `EXAMPLE_RECORDS` records.

    Raises:
        UndividedModelError: the blocks are not called one after the other, or there are none.
    """
    blocks = _find_blocks(model, parts)
    # Only of a model without a base, the head is divided further: its other layers are pretrained.
    divided = [blocks[0], *([] if parts.base else [parts.classifier])]
    units = list(_units(model, divided, blocks))
    calls = _record_calls(model, [*units, *blocks], example)
    starts = _block_starts(blocks, calls)
    groups: list[list[str]] = [[] for _ in range(len(blocks) + 1)]
    groups[0] = list(_direct_parameters(model, divided))
    head: list[str] = []
    defined_before = _defined_before(model, units, blocks[0])
    for path in sorted(units, key=lambda path: min(calls.positions.get(path, [-1]))):
        positions = calls.positions.get(path)
        index = sum(start < min(positions) for start in starts) if positions else len(blocks)
        if path in defined_before and not positions:
            index = 0
        if positions and index != sum(start < max(positions) for start in starts) and _has_parameters(model, path):
            raise UndividedModelError(f"{path} is called for several blocks")
        in_head = not _is_within(path, parts.base) or _is_within(parts.classifier, path) or path in parts.head
        in_head |= parts.pooled_in_head and path in calls.vectors
        # What reads the output of the head, such as a flatten, is in the head too.
        in_head |= bool(positions) and any(other in calls.positions for other in head)
        if in_head and (index == len(blocks) or not positions):
            head.append(path)
        else:
            groups[index].append(path)
    stem, *others = groups
    return ModelLayout(
        stem=" ".join(stem),
        body=tuple(" ".join([block, *more]) for block, more in zip(blocks, others, strict=True)),
        head=" ".join(head),
        classifier=parts.classifier,
        stem_name=parts.stem_name,
    )


def undivided_layout(model: nn.Module, parts: ModelParts) -> ModelLayout:
    """Return the layout of a model whose encoder is a single group."""
    names = [name for name, _ in model.named_children()]
    head = {name for name in names if _is_within(parts.classifier, name) or name in parts.head}
    if parts.base:
        head = {name for name in names if name != parts.base}
    body = [name for name in names if name not in head] + list(_own_parameters(model, ""))
    return ModelLayout(
        stem=" ".join(body),
        body=(),
        head=" ".join(name for name in names if name in head),
        classifier=parts.classifier,
        stem_name=UNDIVIDED_GROUP,
    )


def find_classifier(model: nn.Module, base: str, classes: int) -> str | None:
    """Return the path of the last linear layer outside the encoder with one output per class, or None.

    Args:
        model: model.
        base: path of the encoder; empty for the whole model except its head.
        classes: number of classes.
    """
    paths = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes and not (base and _is_within(path, base))
    ]
    return paths[-1] if paths else None


def _find_blocks(model: nn.Module, parts: ModelParts) -> list[str]:
    """Return the paths of the blocks: of all lists in the encoder, the outermost with the most parameters.

    Modules of the same parent whose names differ only by a final number, such as `layer1` and `layer2`, are a list too.
    """
    candidates: list[list[str]] = []
    for path, module in model.named_modules():
        children = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
        if not (not path or _is_within(path, parts.base)) or not children:
            continue
        if isinstance(module, _LISTS):
            candidates += [children] if _has_blocks(module) else []
            continue
        series: dict[str, list[str]] = {}
        for child in children:
            if child[-1].isdigit() and _is_within(child, parts.base):
                series.setdefault(child.rstrip("0123456789"), []).append(child)
        candidates += [names for names in series.values() if len(names) > 1]
    sizes = [sum(_parameter_count(model, path) for path in candidate) for candidate in candidates]
    if not any(sizes):
        raise UndividedModelError("it has no list of blocks")
    return candidates[sizes.index(max(sizes))]


def _parameter_count(model: nn.Module, path: str) -> int:
    return sum(parameter.numel() for parameter in model.get_submodule(path).parameters())


def _has_parameters(model: nn.Module, path: str) -> bool:
    return next(model.get_submodule(path).parameters(), None) is not None


def _has_blocks(container: nn.Module) -> bool:
    """Return whether all children of a list are modules that can be called."""
    children = list(container.children())
    return bool(children) and not any(isinstance(child, nn.ModuleList | nn.ModuleDict) for child in children)


def _units(model: nn.Module, divided: Sequence[str], blocks: Sequence[str]) -> Iterator[str]:
    """Yield the paths of the largest modules around blocks and classifier, in the order of definition."""
    ancestors = _ancestors(divided)
    for ancestor in ancestors:
        for name, _ in model.get_submodule(ancestor).named_children():
            path = f"{ancestor}.{name}" if ancestor else name
            if path not in blocks and path not in ancestors:
                yield from _callable_parts(model, path)


def _callable_parts(model: nn.Module, path: str) -> Iterator[str]:
    """Yield the path of a module, or those of the entries of a list or dictionary, which is not called itself."""
    module = model.get_submodule(path)
    if not isinstance(module, nn.ModuleList | nn.ModuleDict):
        yield path
        return
    for name, _ in module.named_children():
        yield from _callable_parts(model, f"{path}.{name}")


def _ancestors(paths: Sequence[str]) -> list[str]:
    """Return the paths of all modules that contain one of the modules, from the model to its parts."""
    ancestors = [""]
    for path in paths:
        names = path.split(".")[:-1]
        ancestors += [".".join(names[: index + 1]) for index in range(len(names))]
    return list(dict.fromkeys(ancestors))


def _direct_parameters(model: nn.Module, divided: Sequence[str]) -> Iterator[str]:
    """Yield the parameters that belong to the modules around blocks and classifier, such as a class token."""
    for ancestor in _ancestors(divided):
        yield from _own_parameters(model, ancestor)


def _own_parameters(model: nn.Module, path: str) -> Iterator[str]:
    for name, _ in model.get_submodule(path).named_parameters(recurse=False):
        yield f"{path}.{name}" if path else name


def _defined_before(model: nn.Module, units: Sequence[str], block: str) -> set[str]:
    order = {path: index for index, (path, _) in enumerate(model.named_modules())}
    return {path for path in units if order.get(path, -1) < order[block]}


def _record_calls(model: nn.Module, paths: Sequence[str], example: Callable[[nn.Module], object]) -> _Calls:
    calls, count = _Calls(), iter(range(1 << 62))

    def note_start(path: str) -> Callable[..., None]:
        return lambda *_: calls.positions.setdefault(path, []).append(next(count))

    def note_output(path: str) -> Callable[..., None]:
        def hook(_module: object, _args: object, output: Any) -> None:  # noqa: ANN401 - depends on the module
            if isinstance(output, Tensor) and output.dim() == 2 and len(output) == EXAMPLE_RECORDS:
                calls.vectors.add(path)

        return hook

    handles = [model.get_submodule(path).register_forward_pre_hook(note_start(path)) for path in paths]
    handles += [model.get_submodule(path).register_forward_hook(note_output(path)) for path in paths]
    try:
        with torch.no_grad():
            example(model)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _block_starts(blocks: Sequence[str], calls: _Calls) -> list[int]:
    """Return the position of the first call of each block."""
    uncalled = [path for path in blocks if path not in calls.positions]
    if uncalled:
        raise UndividedModelError(f"{uncalled[0]} is not called")
    positions = [position for path in blocks for position in calls.positions[path]]
    if positions != sorted(positions):
        raise UndividedModelError("its blocks are not called in their order")
    return [calls.positions[path][0] for path in blocks]


def _is_within(path: str, base: str) -> bool:
    return not base or path == base or path.startswith(f"{base}.")
