"""Folding batch normalization into convolutions preserves the frozen prefix's outputs and skips unsafe cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from finetune.models.backbone import Backbone
from finetune.models.load import load_backbone
from finetune.models.splitting.batchnorm_folding import Calls, Example, folded
from finetune.models.splitting.split_module import with_replaced
from tests.models.torchvision.test_families import SMALLEST
from tests.support.model_requests import ask, inputs_of
from tests.support.tiny_transformers import PICTURE_TYPES, write_folder

# DenseNet also normalizes before convolutions; it has 121 batch normalizations.
LEFT = {"densenet121": 62}


@pytest.fixture(scope="module", params=[*SMALLEST, *PICTURE_TYPES])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A model with non-trivial batch statistics."""
    scratch = tmp_path_factory.mktemp("scratch")
    if request.param in SMALLEST:
        asked = ask(request.param, scratch, pretrained=False, image_size=SMALLEST[request.param][0])
    else:
        asked = ask(None, scratch, channel=write_folder(scratch / request.param, request.param, labels=("no", "yes")))
    found = load_backbone(asked)
    found.module.eval()
    for module in found.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            seen(module.num_features, module)
    return found


def seen(channels: int, module: nn.BatchNorm2d | None = None) -> nn.BatchNorm2d:
    """A batch normalization with an effect in evaluation mode."""
    module, generator = module or nn.BatchNorm2d(channels), torch.Generator().manual_seed(1)
    for values, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5)):
        assert values is not None
        values.data.uniform_(low, low + 1, generator=generator)
    return module


def on(network: nn.Module, pixels: Tensor) -> Example:
    """The model's output for these pixels."""

    def run(network: nn.Module) -> Tensor:
        with torch.no_grad():
            found: Tensor = network(pixels)
        return found

    with Calls(network) as calls:
        result = run(network)
    return Example(calls.pairs(), result, run)


def normalisations_called(run: Callable[[], object]) -> int:
    """The number of batch normalizations that run."""
    called: list[nn.Module] = []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, *_: called.append(module) if isinstance(module, nn.BatchNorm2d) else None
    )
    run()
    handle.remove()
    return len(called)


def test_what_it_gives_is_the_same_up_to_rounding(backbone: Backbone) -> None:
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    inputs = inputs_of(backbone)
    for border in range(1, len(backbone.layer_groups())):
        cut = backbone.split(border)
        expected = cut.prefix(inputs)["activation"]
        found = cut.folded(None).prefix(inputs)["activation"]
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max(), border
        assert torch.equal(cut.prefix(inputs)["activation"], expected), border
    after = backbone.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_normalisation_behind_a_convolution_is_folded(backbone: Backbone) -> None:
    inputs, cut = inputs_of(backbone), backbone.split(len(backbone.layer_groups()) - 1)
    without = cut.folded(None)
    assert normalisations_called(lambda: without.prefix(inputs)) == LEFT.get(backbone.name, 0)


def test_under_autocast_it_gives_what_autocast_would_make_of_its_weights() -> None:
    network, pixels = nn.Sequential(nn.Conv2d(3, 4, 3), seen(4)).eval(), torch.rand(2, 3, 8, 8)
    plain, cast = (folded(network, on(network, pixels), with_replaced, dtype) for dtype in (None, torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(plain(pixels), cast(pixels))
    assert cast.get_parameter("0.weight").dtype is torch.bfloat16
    assert network.get_parameter("0.weight").dtype is torch.float32


class Twice(nn.Module):
    """Uses the output of a convolution both with and without normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalisation = nn.Conv2d(3, 4, 3), seen(4)

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.convolution(pixels)
        normalised: Tensor = self.normalisation(found)
        return found + normalised


class Again(nn.Module):
    """Calls a convolution twice, and normalizes one of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalisation = nn.Conv2d(3, 3, 3), seen(3)

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.normalisation(self.convolution(self.convolution(pixels)))
        return found


class Other(nn.Conv2d):
    """Does more than a convolution."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input).square()


@pytest.mark.parametrize(
    "network", [Twice(), Again(), nn.Sequential(Other(3, 4, 3), seen(4)), nn.Sequential(seen(3), nn.Conv2d(3, 4, 3))]
)
def test_what_cannot_be_folded_stays(network: nn.Module) -> None:
    network.eval()
    assert folded(network, on(network, torch.rand(2, 3, 8, 8)), with_replaced, None) is network
