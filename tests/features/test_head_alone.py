"""Selection of the model parts that run in a single thread."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.features.phase_inputs import CachedInputProvider
from finetune.features.plan import CachePlan
from finetune.features.warm_pool import WarmPool
from finetune.job.loaders import BadRecordCounts, Loaders
from finetune.models.load import load_backbone
from finetune.runtime.precision import choose_numerics
from finetune.strategies.presets import ModelStructure, make_plan
from finetune.training.inputs import PhaseInputs
from tests.support.model_requests import ask
from tests.support.tiny import TinyReader, tiny_batches
from tests.support.training_setup import CPU, request


def feeds(folder: Path, name: str, **hyperparameters: str) -> tuple[PhaseInputs, PhaseInputs]:
    """The training and validation inputs of the first phase."""
    backbone = load_backbone(ask(name, folder, pretrained=False))
    spec = request(**hyperparameters)
    names = tuple(group.name for group in backbone.layer_groups())
    plan = make_plan(spec.strategy, spec.optimisation, ModelStructure(names, "image-classification", True))
    train, validation = (
        tiny_batches(TinyReader(9), training=True),
        tiny_batches(TinyReader(9, "validation"), training=False),
    )
    loaders = Loaders(train, validation, None, None, BadRecordCounts())
    frozen = CachePlan(backbone, plan, spec, choose_numerics("fp32", CPU))
    found = CachedInputProvider(frozen, loaders, folder, WarmPool(None))
    training, validated = found.training(plan.phases[0]), found.validation()
    assert validated is not None
    return training, validated


@pytest.mark.parametrize(
    ("name", "hyperparameters", "alone"),
    [
        ("resnet18", {"strategy": "feature_extraction"}, True),
        ("resnet18", {"strategy": "feature_extraction", "batch_size": "4000"}, True),
        ("resnet18", {"strategy": "feature_extraction", "batch_size": "6000"}, False),
        ("resnet18", {"strategy": "partial"}, False),
        ("resnet18", {"strategy": "full"}, False),
        # Only the last of its three matrices belongs to the head.
        ("vgg11", {"strategy": "feature_extraction"}, True),
    ],
)
def test_a_small_head_behind_kept_features_is_alone(
    tmp_path: Path, name: str, hyperparameters: dict[str, str], alone: bool
) -> None:
    assert [feed.alone for feed in feeds(tmp_path, name, **hyperparameters)] == [alone, alone]
