"""Selection of the model parts that run in a single thread."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.features.phase_inputs import CachedInputProvider
from finetune.features.plan import CachePlan
from finetune.features.reuse.warm_pool import WarmPool
from finetune.job.data.loaders import BadRecordCounts, Loaders
from finetune.models.load import load_backbone
from finetune.runtime.precision import choose_numerics
from finetune.strategies.presets import ModelStructure, make_plan
from finetune.training.inputs import PhaseInputs
from tests.support.model_requests import request_model
from tests.support.tiny import TinyReader, tiny_batches
from tests.support.training_setup import CPU, request


def phase_inputs(folder: Path, name: str, **hyperparameters: str) -> tuple[PhaseInputs, PhaseInputs]:
    """The training and validation inputs of the first phase."""
    backbone = load_backbone(request_model(name, folder, pretrained=False))
    spec = request(**hyperparameters)
    names = tuple(group.name for group in backbone.layer_groups())
    plan = make_plan(spec.strategy, spec.optimization, ModelStructure(names, "image-classification", True))
    train, validation = (
        tiny_batches(TinyReader(9), training=True),
        tiny_batches(TinyReader(9, "validation"), training=False),
    )
    loaders = Loaders(train, validation, None, None, BadRecordCounts())
    cache_plan = CachePlan(backbone, plan, spec, choose_numerics("fp32", CPU))
    provider = CachedInputProvider(cache_plan, loaders, folder, WarmPool(None))
    training, validation_inputs = provider.training(plan.phases[0]), provider.validation()
    assert validation_inputs is not None
    return training, validation_inputs


@pytest.mark.parametrize(
    ("name", "hyperparameters", "single_threaded"),
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
def test_small_head_on_cached_features_is_single_threaded(
    tmp_path: Path, name: str, hyperparameters: dict[str, str], single_threaded: bool
) -> None:
    assert [inputs.single_threaded for inputs in phase_inputs(tmp_path, name, **hyperparameters)] == [
        single_threaded
    ] * 2
