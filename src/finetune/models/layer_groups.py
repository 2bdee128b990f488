"""Describes the layer layout of a model family and partitions a model into ordered layer groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from finetune.models.backbone import LayerGroup


@dataclass(frozen=True, slots=True)
class Children:
    """The children of a container; a new group begins at each child for which `starts(previous, child)` is true."""

    container: str
    starts: Callable[[nn.Module, nn.Module], bool] = lambda _previous, _child: True


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """An auxiliary classifier: path of its root, path of its last layer, loss weight, field of the model's output."""

    root: str
    classifier: str
    weight: float
    field: str


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """Layer layout of a model family, as paths of modules or parameters; a trailing `?` marks an optional path.

    A single tensor crosses each boundary between two groups. Pooling belongs to the last group of the body, so that
    this tensor is small; a dropout belongs to the group whose input it drops.

    Attributes:
        body: groups in order; a string with several paths is one group. Empty if the stem is the whole encoder.
        head: paths of the last group, without auxiliary classifiers.
        classifier: path of the linear layer that computes the logits.
        stem: paths of the first group; empty if the body starts at the input.
        with_first: paths that belong to the first group of the body.
        with_last: paths that belong to the last group of the body.
        auxiliary: auxiliary classifiers, which belong to the head.
        stem_name: name of the first group.
    """

    body: tuple[str | Children, ...]
    head: str
    classifier: str
    stem: str = ""
    with_first: str = ""
    with_last: str = ""
    auxiliary: tuple[Auxiliary, ...] = ()
    stem_name: str = "stem"

    def classifiers(self, model: nn.Module) -> tuple[str, ...]:
        """Return the paths of the last layers of all classifiers of `model`, the main one first."""
        return (self.classifier, *(extra.classifier for extra in self.auxiliary if _has_submodule(model, extra.root)))


def layer_groups(model: nn.Module, layout: ModelLayout) -> tuple[LayerGroup, ...]:
    """Partition `model` from input to head.

    Returns:
        Groups named `stem`, `layer1`, `layer2`, ..., `head`, which own each parameter exactly once.

    Raises:
        RuntimeError: the layout does not match this model (internal error).
    """
    body = [list(_split(paths)) for paths in _body_paths(model, layout)]
    if body:
        body[0] += _split(layout.with_first)
        body[-1] += _split(layout.with_last)
    head = [*_split(layout.head), *(f"{extra.root}?" for extra in layout.auxiliary)]
    named = [(f"layer{number}", paths) for number, paths in enumerate(body, start=1)]
    if layout.stem:
        named.insert(0, (layout.stem_name, _split(layout.stem)))
    names = [name for name, _ in model.named_parameters()]
    groups = tuple(_group(model, name, paths, names) for name, paths in [*named, ("head", head)])
    owned = [parameter for group in groups for parameter in group.parameters]
    if sorted(owned) != sorted(names):
        raise RuntimeError(f"groups do not partition the parameters: {sorted(set(owned) ^ set(names))[:5]}")
    return groups


def _body_paths(model: nn.Module, layout: ModelLayout) -> Iterator[str]:
    for part in layout.body:
        if isinstance(part, Children):
            yield from _children(model.get_submodule(part.container), part)
        else:
            yield part


def _children(container: nn.Module, part: Children) -> Iterator[str]:
    group: list[str] = []
    previous: nn.Module | None = None
    for name, child in container.named_children():
        if previous is not None and part.starts(previous, child):
            yield " ".join(group)
            group = []
        group.append(f"{part.container}.{name}")
        previous = child
    yield " ".join(group)


def _group(model: nn.Module, name: str, paths: list[str], parameters: list[str]) -> LayerGroup:
    present = [path.removesuffix("?") for path in paths if not path.endswith("?") or _has_submodule(model, path[:-1])]
    modules = tuple(model.get_submodule(path) for path in present if path not in parameters)
    owned = tuple(p for p in parameters if any(p == path or p.startswith(f"{path}.") for path in present))
    return LayerGroup(name, modules, owned)


def _split(paths: str) -> list[str]:
    return paths.split()


def _has_submodule(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True
