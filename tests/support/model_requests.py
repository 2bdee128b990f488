"""Requests for models, and checks that apply to every model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from finetune.config.hyperparameters import ModelSpec, TaskName
from finetune.models.backbone import Backbone, ImageInput
from finetune.models.request import ModelRequest

LABELS = ("bird", "cat", "dog")


def request_model(
    name: str | None,
    scratch: Path,
    *,
    task: TaskName = "image-classification",
    labels: tuple[str, ...] = LABELS,
    multi_label: bool = False,
    pretrained: bool = True,
    reinitialize: Literal["auto", "true", "false"] = "auto",
    dropout: float | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    seed: int = 1,
    channel: Path | None = None,
    baked: Path | None = None,
    trained: bool = True,
    ordered: bool = False,
) -> ModelRequest:
    return ModelRequest(
        spec=ModelSpec(name=name, reinitialize_top_layer=reinitialize, dropout=dropout),
        task=task,
        labels=labels,
        problem_type="multi_label_classification" if multi_label else "single_label_classification",
        pretrained=pretrained,
        image_size=image_size,
        max_length=max_length,
        seed=seed,
        model_channel=channel,
        baked_weights=baked,
        scratch=scratch / "scratch",
        trained=trained,
        labels_ordered=ordered,
    )


def inputs_of(backbone: Backbone, batch: int = 2) -> dict[str, Tensor]:
    """Random pixels, or token ids with a shorter second text."""
    generator = torch.Generator().manual_seed(3)
    if isinstance(backbone.expects, ImageInput):
        size = backbone.expects.size
        return {"pixels": torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)}
    tokenizer = backbone.expects.tokenizer
    texts = ["the cat sat on the mat", "a dog"][:batch]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    return {name: encoded[name] for name in encoded}


def logits_of(backbone: Backbone) -> Tensor:
    backbone.module.eval()
    with torch.inference_mode():
        return backbone.forward(inputs_of(backbone)).logits


def assert_is_partition(backbone: Backbone) -> None:
    """Assert that every parameter and every leaf module belongs to exactly one group."""
    groups = backbone.layer_groups()
    owned = [name for group in groups for name in group.parameters]
    assert sorted(owned) == sorted(name for name, _ in backbone.module.named_parameters())
    inside = [id(module) for group in groups for root in group.modules for module in root.modules()]
    assert len(inside) == len(set(inside))
    leaves = {id(module) for module in backbone.module.modules() if not any(True for _ in module.children())}
    assert leaves <= set(inside)
    assert len({group.name for group in groups}) == len(groups)
    assert groups[-1].name == "head"


def groups_in_order_of_calls(backbone: Backbone) -> list[str]:
    """Group names in the order in which their leaf modules are called; a group entered twice appears twice."""
    calls: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            if calls[-1:] != [name]:
                calls.append(name)

        return hook

    def hooks() -> Iterator[Any]:
        for group in backbone.layer_groups():
            for module in (module for root in group.modules for module in root.modules()):
                if not any(True for _ in module.children()) and not isinstance(module, nn.Identity):
                    yield module.register_forward_hook(note(group.name))

    handles = list(hooks())
    logits_of(backbone)
    for handle in handles:
        handle.remove()
    return calls
