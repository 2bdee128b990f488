"""The job reports how it caches the outputs of frozen layers."""

from __future__ import annotations

import pytest
import torch

from finetune.config.parse import parse_hyperparameters
from finetune.features.plan import CachePlan, ImagePasses
from finetune.job.plan_summary import feature_lines
from finetune.runtime.precision import choose_numerics
from finetune.strategies.presets import ModelStructure, make_plan
from tests.support.tiny import TinyBackbone


def cache_plan(**hyperparameters: str) -> CachePlan:
    spec, backbone = parse_hyperparameters({"epochs": "6", **hyperparameters}), TinyBackbone()
    names = tuple(group.name for group in backbone.layer_groups())
    plan = make_plan(spec.strategy, spec.optimization, ModelStructure(names, "image-classification", new_head=True))
    return CachePlan(backbone, plan, spec, choose_numerics("fp32", torch.device("cpu")))


def lines(**hyperparameters: str) -> list[str]:
    return feature_lines(cache_plan(**hyperparameters), 1, counted=True)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"strategy": "feature_extraction"}, "(up to middle) are cached: 1 pass through them instead of 6; without"),
        ({"strategy": "partial"}, "(up to stem) are cached: 1 pass through them instead of 6; without augmentation"),
        (
            {"strategy": "partial", "augmentation_views": "2"},
            "(up to stem) are cached: 2 passes through them instead of 6; 2 augmented views",
        ),
        ({"strategy": "partial", "augmentation": "none"}, "1 pass through them instead of 6; results do not change"),
        ({"strategy": "partial", "augmentation_views": "6"}, "are computed in every epoch: none is used twice"),
        ({"strategy": "partial", "feature_cache": "off"}, "are computed in every epoch"),
    ],
)
def test_line_reports_passes_and_effect(request_: dict[str, str], text: str) -> None:
    (line,) = lines(**request_)
    assert text in line


def test_uncounted_stream_is_not_cached() -> None:
    (line,) = feature_lines(cache_plan(strategy="feature_extraction"), 1, counted=False)
    assert "are computed in every epoch" in line
    assert "num_training_samples" in line


def test_no_line_if_all_layers_are_trainable() -> None:
    assert lines(strategy="full") == []


@pytest.mark.parametrize(
    ("request_", "passes"),
    [
        ({"strategy": "evaluate"}, ImagePasses(0, 0, 0)),
        ({"strategy": "feature_extraction"}, ImagePasses(1, 0, 1)),
        ({"strategy": "partial"}, ImagePasses(1, 0, 1)),
        ({"strategy": "partial", "augmentation_views": "2"}, ImagePasses(0, 2, 1)),
        ({"strategy": "partial", "feature_cache": "off"}, ImagePasses(0, 6, 6)),
        ({"strategy": "partial", "feature_cache": "off", "augmentation": "none"}, ImagePasses(6, 0, 6)),
        ({"strategy": "full"}, ImagePasses(0, 6, 6)),
        ({"strategy": "full", "augmentation": "none"}, ImagePasses(6, 0, 6)),
        # The head for one epoch, `middle` for another, then everything.
        ({"strategy": "gradual"}, ImagePasses(2, 4, 6)),
        ({"strategy": "gradual", "augmentation": "none"}, ImagePasses(6, 0, 6)),
        ({"strategy": "gradual", "epochs": "12"}, ImagePasses(2, 8, 10)),
    ],
)
def test_image_passes_are_counted(request_: dict[str, str], passes: ImagePasses) -> None:
    assert cache_plan(**request_).passes == passes
