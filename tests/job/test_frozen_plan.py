"""Does the job say what becomes of the outputs of frozen layers?"""

from __future__ import annotations

import pytest
import torch

from finetune.job.feeds import Frozen
from finetune.job.savings import feature_lines
from finetune.spec.parse import parse_hyperparameters
from finetune.strategies.presets import Network, make_plan
from finetune.training.precision import choose_numerics
from tiny import TinyBackbone


def lines(**hyperparameters: str) -> list[str]:
    spec, backbone = parse_hyperparameters({"epochs": "6", **hyperparameters}), TinyBackbone()
    names = tuple(group.name for group in backbone.layer_groups())
    plan = make_plan(spec.strategy, spec.optimisation, Network(names, "image-classification", new_head=True))
    return feature_lines(Frozen(backbone, plan, spec, choose_numerics("fp32", torch.device("cpu"))), 1)


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


def test_nothing_is_said_where_all_layers_learn() -> None:
    assert lines(strategy="full") == []
