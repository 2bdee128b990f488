"""Frozen prefix and trainable suffix together equal the whole model, for every split of every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finetune.models.backbone import Backbone
from finetune.models.load import load_backbone
from finetune.strategies.freezing import apply_trainable
from tests.models.torchvision.test_families import SMALLEST
from tests.support.model_requests import inputs_of, logits_of, request_model
from tests.support.tiny_transformers import IMAGE_TYPES, TEXT_TYPES, write_folder

# DeBERTa's modules still use torch.jit.script at import.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.fixture(scope="module", params=[*SMALLEST, *IMAGE_TYPES, *TEXT_TYPES])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    scratch = tmp_path_factory.mktemp("scratch")
    if request.param in SMALLEST:
        size, _ = SMALLEST[request.param]
        return load_backbone(request_model(request.param, scratch, pretrained=False, image_size=size))
    folder = write_folder(scratch / request.param, request.param, labels=("no", "yes"))
    task = "text-classification" if request.param in TEXT_TYPES else "image-classification"
    return load_backbone(request_model(None, scratch, task=task, channel=folder))  # type: ignore[arg-type]  # one of two


def split_indices(backbone: Backbone) -> range:
    return range(1, len(backbone.layer_groups()))


def test_prefix_and_suffix_reproduce_the_logits(backbone: Backbone) -> None:
    expected, inputs = logits_of(backbone), inputs_of(backbone)
    for split_index in split_indices(backbone):
        split = backbone.split(split_index)
        with torch.no_grad():
            assert torch.equal(split.suffix(split.prefix(inputs)).logits, expected), split_index
    assert torch.equal(logits_of(backbone), expected)


def test_suffix_gradients_equal_those_of_the_whole_model(backbone: Backbone) -> None:
    groups = backbone.layer_groups()
    split_index = len(groups) - 2
    apply_trainable(backbone, [group.name for group in groups[split_index:]])
    backbone.module.eval()

    def gradients(logits: Tensor) -> dict[str, Tensor]:
        logits.square().sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
        grads = {name: p.grad for name, p in backbone.module.named_parameters() if p.grad is not None}
        backbone.module.zero_grad(set_to_none=True)
        return grads

    expected = gradients(backbone.forward(inputs_of(backbone)).logits)
    split = backbone.split(split_index)
    suffix_gradients = gradients(split.suffix(split.prefix(inputs_of(backbone))).logits)
    assert suffix_gradients.keys() == expected.keys()
    assert suffix_gradients
    torch.testing.assert_close(suffix_gradients, expected)


def test_prefix_and_suffix_run_only_their_own_layers(backbone: Backbone) -> None:
    groups = backbone.layer_groups()
    for split_index in (1, len(groups) - 1):
        split, called = backbone.split(split_index), set[str]()
        handles = [
            module.register_forward_hook(note_rows(group.name, called)) for group in groups for module in group.modules
        ]
        features = split.prefix(inputs_of(backbone))
        assert called == {group.name for group in groups[:split_index]}
        called.clear()
        split.suffix(features)
        assert called == {group.name for group in groups[split_index:]}
        for handle in handles:
            handle.remove()


def note_rows(name: str, called: set[str]) -> Callable[..., None]:
    """A hook that adds `name` if the output has two rows, one per record; position encodings run in both parts."""

    def note(_module: nn.Module, _args: object, output: Any) -> None:  # noqa: ANN401 - depends on the layer
        first = output if isinstance(output, Tensor) else next(iter(getattr(output, "values", output.__iter__)()))
        if first.shape[0] == 2:
            called.add(name)

    return note


def test_head_needs_one_vector_per_record(backbone: Backbone) -> None:
    split = backbone.split(len(backbone.layer_groups()) - 1)
    activation = split.prefix(inputs_of(backbone))["activation"]
    values = activation.shape[-1] if split.padding else activation[0].numel()
    assert values <= max(
        backbone.module.get_parameter(name).shape[-1] for name in backbone.layer_groups()[-1].parameters
    )


def test_split_index_out_of_range_is_refused(backbone: Backbone) -> None:
    for split_index in (0, len(backbone.layer_groups())):
        with pytest.raises(ValueError, match="split_index"):
            backbone.split(split_index)
