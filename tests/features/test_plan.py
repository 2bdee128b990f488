"""The job reports how it caches the outputs of frozen layers."""

from __future__ import annotations

import pytest
import torch

from finetune.config.parse import parse_hyperparameters
from finetune.features.plan import CachePlan, Passes
from finetune.job.savings import feature_lines
from finetune.runtime.precision import choose_numerics
from finetune.strategies.presets import ModelStructure, make_plan
from tests.support.tiny import TinyBackbone


def frozen(**hyperparameters: str) -> CachePlan:
    spec, backbone = parse_hyperparameters({"epochs": "6", **hyperparameters}), TinyBackbone()
    names = tuple(group.name for group in backbone.layer_groups())
    plan = make_plan(spec.strategy, spec.optimisation, ModelStructure(names, "image-classification", new_head=True))
    return CachePlan(backbone, plan, spec, choose_numerics("fp32", torch.device("cpu")))


def lines(**hyperparameters: str) -> list[str]:
    return feature_lines(frozen(**hyperparameters), 1, counted=True)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"strategy": "feature_extraction"}, "(up to middle) are kept: 1 pass through them instead of 6; without"),
        ({"strategy": "partial"}, "(up to stem) are kept: 1 pass through them instead of 6; without augmentation"),
        (
            {"strategy": "partial", "augmentation_views": "2"},
            "(up to stem) are kept: 2 passes through them instead of 6; 2 augmentations",
        ),
        ({"strategy": "partial", "augmentation": "none"}, "1 pass through them instead of 6; nothing is given up"),
        ({"strategy": "partial", "augmentation_views": "6"}, "are computed in every epoch: none is asked for again"),
        ({"strategy": "partial", "feature_cache": "off"}, "are computed in every epoch"),
    ],
)
def test_what_is_done_saved_and_given_up_is_said(request_: dict[str, str], said: str) -> None:
    (line,) = lines(**request_)
    assert said in line


def test_a_stream_that_nobody_counted_keeps_nothing() -> None:
    (line,) = feature_lines(frozen(strategy="feature_extraction"), 1, counted=False)
    assert "are computed in every epoch" in line
    assert "num_training_samples" in line


def test_nothing_is_said_where_all_layers_learn() -> None:
    assert lines(strategy="full") == []


@pytest.mark.parametrize(
    ("request_", "passes"),
    [
        ({"strategy": "evaluate"}, Passes(0, 0, 0)),
        ({"strategy": "feature_extraction"}, Passes(1, 0, 1)),
        ({"strategy": "partial"}, Passes(1, 0, 1)),
        ({"strategy": "partial", "augmentation_views": "2"}, Passes(0, 2, 1)),
        ({"strategy": "partial", "feature_cache": "off"}, Passes(0, 6, 6)),
        ({"strategy": "partial", "feature_cache": "off", "augmentation": "none"}, Passes(6, 0, 6)),
        ({"strategy": "full"}, Passes(0, 6, 6)),
        ({"strategy": "full", "augmentation": "none"}, Passes(6, 0, 6)),
        # The head for one epoch, `middle` for another, then everything.
        ({"strategy": "gradual"}, Passes(2, 4, 6)),
        ({"strategy": "gradual", "augmentation": "none"}, Passes(6, 0, 6)),
        ({"strategy": "gradual", "epochs": "12"}, Passes(2, 8, 10)),
    ],
)
def test_looks_at_pictures_are_counted(request_: dict[str, str], passes: Passes) -> None:
    assert frozen(**request_).passes == passes
