"""Hidden layers of heads that pass their inputs through, in an unchanged architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.models.backbone import Backbone
from finetune.models.hidden_layer import classifier_inputs, find_pass_through
from tests.support.text_folders import load
from tests.support.tiny import TinyBackbone
from tests.support.tiny_transformers import write_folder

WIDTH = 16

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def load_tiny(folder: Path, model_type: str) -> Backbone:
    return load(write_folder(folder / model_type, model_type))


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra", "deberta-v2"])
def test_the_last_layer_reads_the_inputs_of_the_hidden_one(model_type: str, tmp_path: Path) -> None:
    backbone = load_tiny(tmp_path, model_type)
    found = find_pass_through(backbone)
    assert found is not None
    split = backbone.split(len(backbone.layer_groups()) - 1)
    inputs = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(0)).clamp(-2.5, 2.5)
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    backbone.module.eval()
    with torch.no_grad(), found.applied(), classifier_inputs(backbone.classifier):
        outputs = split.suffix({"activation": inputs}).logits
    # Each output is a function of one input that keeps their order.
    for column in range(WIDTH):
        ordered = outputs[inputs[:, column].argsort(), column]
        assert bool((ordered.diff() >= 0).all())
        assert ordered[-1] > ordered[0]
    after = backbone.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with torch.no_grad():
        assert split.suffix({"activation": inputs}).logits.shape == (40, 2)


def test_applying_changes_the_hidden_layer_alone(tmp_path: Path) -> None:
    backbone = load_tiny(tmp_path, "bert")
    found = find_pass_through(backbone)
    assert found is not None
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    found.apply()
    changed = [name for name, value in backbone.module.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]
    assert torch.equal(found.layer.weight, torch.eye(WIDTH))


def test_heads_without_a_hidden_layer(tmp_path: Path) -> None:
    assert find_pass_through(load_tiny(tmp_path, "gpt2")) is None
    assert find_pass_through(TinyBackbone()) is None
