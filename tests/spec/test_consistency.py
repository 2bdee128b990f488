"""Are contradictions refused, and are knobs without effect told rather than refused?"""

from __future__ import annotations

import pytest

from finetune.errors import UserError
from finetune.spec.consistency import CONTRADICTIONS, IDLE
from finetune.spec.knobs import all_knobs
from finetune.spec.parse import parse_hyperparameters


def test_every_rule_speaks_of_declared_knobs() -> None:
    named = {name for rule in CONTRADICTIONS for name in rule.knobs} | {name for rule in IDLE for name in rule.knobs}
    assert named <= all_knobs().keys()


@pytest.mark.parametrize(
    ("raw", "beginning"),
    [
        ({"lr_schedule": "step"}, "lr_schedule='step' needs lr_step_epochs"),
        ({"lr_schedule": "step", "lr_step_epochs": "20,10"}, "lr_step_epochs must be above 0 and ascending"),
        ({"lr_schedule": "step", "lr_step_epochs": "0,10"}, "lr_step_epochs must be above 0 and ascending"),
        ({"strategy": "from_scratch", "reinitialize_top_layer": "false"}, "strategy='from_scratch' begins with"),
        ({"strategy": "evaluate", "reinitialize_top_layer": "true"}, "strategy='evaluate' trains nothing"),
        ({"label_column": "a", "text_column": "a"}, "label_column, text_column and text_pair_column must"),
    ],
)
def test_a_contradiction_is_refused(raw: dict[str, str], beginning: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_hyperparameters(raw)
    assert str(caught.value).startswith(beginning)


@pytest.mark.parametrize(
    ("raw", "note"),
    [
        ({"unfrozen_groups": "2"}, "unfrozen_groups has no effect: only strategy='partial' reads it."),
        ({"momentum": "0.9"}, "momentum has no effect: adamw and adam have beta_1 instead."),
        (
            {"optimizer": "sgd", "beta_1": "0.8", "beta_2": "0.9"},
            "beta_1, beta_2 have no effect: only adamw and adam read it.",
        ),
        ({"lr_factor": "0.5"}, "lr_factor has no effect: lr_schedule is neither 'step' nor 'exponential'."),
        ({"lr_step_epochs": "3"}, "lr_step_epochs has no effect: lr_schedule is not 'step'."),
        ({"lr_schedule": "step", "lr_step_epochs": "10"}, "lr_step_epochs has no effect: the job has no more epochs"),
        ({"early_stopping_min_epochs": "3"}, "early_stopping_min_epochs has no effect: early_stopping_patience is not"),
        ({"strategy": "evaluate", "epochs": "3", "dropout": "0.1"}, "epochs, dropout have no effect: strategy="),
        ({"task": "text-classification", "image_size": "32"}, "image_size has no effect: it belongs to images"),
        ({"task": "image-classification", "header": "true"}, "header has no effect: it belongs to texts"),
    ],
)
def test_a_knob_without_effect_is_told(raw: dict[str, str], note: str) -> None:
    (told,) = parse_hyperparameters(raw).notes
    assert told.startswith(note)


@pytest.mark.parametrize(
    "raw",
    [
        {"strategy": "partial", "unfrozen_groups": "2", "layer_decay": "0.9"},
        {"optimizer": "nag", "momentum": "0.8"},
        {"optimizer": "rmsprop", "momentum": "0.8", "eps": "1e-6"},
        {"lr_schedule": "step", "lr_step_epochs": "3,6", "lr_factor": "0.5"},
        {"lr_schedule": "exponential", "lr_factor": "0.5"},
        {"early_stopping_patience": "2", "early_stopping_min_epochs": "3"},
    ],
)
def test_a_knob_that_is_read_is_not_called_idle(raw: dict[str, str]) -> None:
    assert parse_hyperparameters(raw).notes == ()
