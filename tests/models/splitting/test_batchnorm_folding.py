"""Folding batch normalization into convolutions preserves the frozen prefix's outputs and skips unsafe cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from finetune.models.backbone import Backbone
from finetune.models.load import load_backbone
from finetune.models.splitting.batchnorm_folding import CallRecorder, ReferenceRun, fold_batchnorms
from finetune.models.splitting.split_module import replace_submodules
from tests.models.torchvision.test_families import SMALLEST
from tests.support.model_requests import inputs_of, request_model
from tests.support.tiny_transformers import IMAGE_TYPES, write_folder

pytestmark = pytest.mark.slow

# DenseNet also normalizes before convolutions; it has 121 batch normalizations.
UNFOLDED = {"densenet121": 62}


@pytest.fixture(scope="module", params=[*SMALLEST, *IMAGE_TYPES])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A model with non-trivial batch statistics."""
    scratch = tmp_path_factory.mktemp("scratch")
    if request.param in SMALLEST:
        model_request = request_model(request.param, scratch, pretrained=False, image_size=SMALLEST[request.param][0])
    else:
        folder = write_folder(scratch / request.param, request.param, labels=("no", "yes"))
        model_request = request_model(None, scratch, channel=folder)
    backbone = load_backbone(model_request)
    backbone.module.eval()
    for module in backbone.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            nontrivial_batchnorm(module.num_features, module)
    return backbone


def nontrivial_batchnorm(channels: int, module: nn.BatchNorm2d | None = None) -> nn.BatchNorm2d:
    """A batch normalization with an effect in evaluation mode."""
    module, generator = module or nn.BatchNorm2d(channels), torch.Generator().manual_seed(1)
    for values, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5)):
        assert values is not None
        values.data.uniform_(low, low + 1, generator=generator)
    return module


def reference_run(model: nn.Module, pixels: Tensor) -> ReferenceRun:
    """Run of the model on these pixels."""

    def run(model: nn.Module) -> Tensor:
        with torch.no_grad():
            output: Tensor = model(pixels)
        return output

    with CallRecorder(model) as calls:
        output = run(model)
    return ReferenceRun(calls.pairs(), output, run)


def count_batchnorm_calls(run: Callable[[], object]) -> int:
    """The number of batch normalizations that run."""
    called: list[nn.Module] = []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, *_: called.append(module) if isinstance(module, nn.BatchNorm2d) else None
    )
    run()
    handle.remove()
    return len(called)


def test_folded_prefix_reproduces_features_up_to_rounding(backbone: Backbone) -> None:
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    inputs = inputs_of(backbone)
    for split_index in range(1, len(backbone.layer_groups())):
        split = backbone.split(split_index)
        expected = split.prefix(inputs)["activation"]
        output = split.fold_batchnorms(None).prefix(inputs)["activation"]
        assert (output - expected).abs().max() <= 1e-4 * expected.abs().max(), split_index
        assert torch.equal(split.prefix(inputs)["activation"], expected), split_index
    after = backbone.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_normalization_after_a_convolution_is_folded(backbone: Backbone) -> None:
    inputs, split = inputs_of(backbone), backbone.split(len(backbone.layer_groups()) - 1)
    folded = split.fold_batchnorms(None)
    assert count_batchnorm_calls(lambda: folded.prefix(inputs)) == UNFOLDED.get(backbone.name, 0)


def test_folded_weights_have_the_autocast_dtype() -> None:
    model, pixels = nn.Sequential(nn.Conv2d(3, 4, 3), nontrivial_batchnorm(4)).eval(), torch.rand(2, 3, 8, 8)
    plain, cast = (
        fold_batchnorms(model, reference_run(model, pixels), replace_submodules, dtype)
        for dtype in (None, torch.bfloat16)
    )
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(plain(pixels), cast(pixels))
    assert cast.get_parameter("0.weight").dtype is torch.bfloat16
    assert model.get_parameter("0.weight").dtype is torch.float32


class SharedOutput(nn.Module):
    """Uses the output of a convolution both with and folded normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalization = nn.Conv2d(3, 4, 3), nontrivial_batchnorm(4)

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.convolution(pixels)
        normalized: Tensor = self.normalization(output)
        return output + normalized


class RepeatedConvolution(nn.Module):
    """Calls a convolution twice, and normalizes one of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalization = nn.Conv2d(3, 3, 3), nontrivial_batchnorm(3)

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.normalization(self.convolution(self.convolution(pixels)))
        return output


class SquaredConvolution(nn.Conv2d):
    """Does more than a convolution."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input).square()


@pytest.mark.parametrize(
    "model",
    [
        SharedOutput(),
        RepeatedConvolution(),
        nn.Sequential(SquaredConvolution(3, 4, 3), nontrivial_batchnorm(4)),
        nn.Sequential(nontrivial_batchnorm(3), nn.Conv2d(3, 4, 3)),
    ],
)
def test_unsupported_layers_stay_unfolded(model: nn.Module) -> None:
    model.eval()
    assert fold_batchnorms(model, reference_run(model, torch.rand(2, 3, 8, 8)), replace_submodules, None) is model
