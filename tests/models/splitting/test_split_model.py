"""Frozen prefix and trainable suffix together equal the whole model, for every split of every family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from finetune.models.backbone import Backbone
from finetune.models.load import load_backbone
from finetune.strategies.freezing import apply_trainable
from tests.models.torchvision.test_families import SMALLEST
from tests.support.model_requests import ask, inputs_of, logits_of
from tests.support.tiny_transformers import PICTURE_TYPES, TEXT_TYPES, write_folder

# DeBERTa's modules still use torch.jit.script at import.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.fixture(scope="module", params=[*SMALLEST, *PICTURE_TYPES, *TEXT_TYPES])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    scratch = tmp_path_factory.mktemp("scratch")
    if request.param in SMALLEST:
        size, _ = SMALLEST[request.param]
        return load_backbone(ask(request.param, scratch, pretrained=False, image_size=size))
    folder = write_folder(scratch / request.param, request.param, labels=("no", "yes"))
    task = "text-classification" if request.param in TEXT_TYPES else "image-classification"
    return load_backbone(ask(None, scratch, task=task, channel=folder))  # type: ignore[arg-type]  # one of two


def borders(backbone: Backbone) -> range:
    return range(1, len(backbone.layer_groups()))


def test_the_halves_give_the_logits_of_the_whole(backbone: Backbone) -> None:
    expected, inputs = logits_of(backbone), inputs_of(backbone)
    for border in borders(backbone):
        cut = backbone.split(border)
        with torch.no_grad():
            assert torch.equal(cut.suffix(cut.prefix(inputs)).logits, expected), border
    assert torch.equal(logits_of(backbone), expected)


def test_gradients_of_the_back_are_those_of_the_whole(backbone: Backbone) -> None:
    groups = backbone.layer_groups()
    border = len(groups) - 2
    apply_trainable(backbone, [group.name for group in groups[border:]])
    backbone.module.eval()

    def gradients(logits: Tensor) -> dict[str, Tensor]:
        logits.square().sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
        found = {name: p.grad for name, p in backbone.module.named_parameters() if p.grad is not None}
        backbone.module.zero_grad(set_to_none=True)
        return found

    whole = gradients(backbone.forward(inputs_of(backbone)).logits)
    cut = backbone.split(border)
    halves = gradients(cut.suffix(cut.prefix(inputs_of(backbone))).logits)
    assert halves.keys() == whole.keys()
    assert halves
    torch.testing.assert_close(halves, whole)


def test_the_front_runs_no_layer_behind_the_border_and_the_back_none_before_it(backbone: Backbone) -> None:
    groups = backbone.layer_groups()
    for border in (1, len(groups) - 1):
        cut, called = backbone.split(border), set[str]()
        handles = [
            module.register_forward_pre_hook(lambda *_, name=group.name, called=called: called.add(name))
            for group in groups
            for module in group.modules
            if "LayerNorm" not in type(module).__name__
        ]
        features = cut.prefix(inputs_of(backbone))
        assert called == {group.name for group in groups[:border]}
        called.clear()
        cut.suffix(features)
        assert called == {group.name for group in groups[border:]}
        for handle in handles:
            handle.remove()


def test_the_head_alone_needs_one_vector_of_each_record(backbone: Backbone) -> None:
    cut = backbone.split(len(backbone.layer_groups()) - 1)
    activation = cut.prefix(inputs_of(backbone))["activation"]
    values = activation.shape[-1] if cut.padding else activation[0].numel()
    assert values <= max(
        backbone.module.get_parameter(name).shape[-1] for name in backbone.layer_groups()[-1].parameters
    )


def test_there_are_borders_only_between_groups(backbone: Backbone) -> None:
    for border in (0, len(backbone.layer_groups())):
        with pytest.raises(ValueError, match="border"):
            backbone.split(border)
