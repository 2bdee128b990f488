"""Is nothing of a network left to chance that is built without drawing its random numbers?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from finetune.models.load import load_backbone
from finetune.models.undrawn import Undrawn
from models.asking import ask
from models.test_vision_families import SMALLEST


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that nobody has written to holds NaN."""
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", SMALLEST)
def test_a_network_with_weights_is_the_same_as_a_drawn_one_with_them(name: str, tmp_path: Path) -> None:
    size, _ = SMALLEST[name]
    given = load_backbone(ask(name, tmp_path / "a", pretrained=False, image_size=size, seed=2)).module.state_dict()
    # A new head, and with it all that is drawn behind it.
    body = {key: value for key, value in given.items() if "aux" not in key.lower()}
    (tmp_path / "model").mkdir()
    torch.save(body, tmp_path / "model" / f"{name}.pth")
    asked = ask(
        name, tmp_path / "b", image_size=size, channel=tmp_path / "model", reinitialize="true", labels=("a", "b")
    )
    built = load_backbone(asked)
    state = built.module.state_dict()
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    assert all(torch.equal(state[key], body[key]) for key in built.weights.loaded)
    assert set(state) == {*built.weights.loaded, *built.weights.fresh}


@pytest.mark.usefixtures("poisoned")
def test_only_drawing_is_left_out() -> None:
    with Undrawn():
        layer, network = nn.BatchNorm2d(3), get_model("resnet18", weights=None)
        nn.init.trunc_normal_(drawn := torch.empty(2, 2))
    assert torch.equal(layer.weight, torch.ones(3))
    assert torch.equal(layer.running_var, torch.ones(3))  # type: ignore[arg-type]  # it has one
    assert bool(network.conv1.weight.isnan().all())
    assert bool(drawn.isnan().all())
    assert bool(torch.empty(2).normal_().isfinite().all())
