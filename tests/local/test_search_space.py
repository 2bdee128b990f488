"""Ranges of hyperparameters, and their form in SageMaker's SDK."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from finetune.errors import UserError
from finetune.local.search_space import (
    Choices,
    FloatRange,
    IntegerRange,
    SearchRange,
    check_disjoint,
    describe_parameters,
    find_objective,
    parse_ranges,
    sagemaker_code,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log:1e-5..1e-2", FloatRange(1e-5, 1e-2, log=True)),
        ("0.6..1", FloatRange(0.6, 1.0)),
        ("3..10", IntegerRange(3, 10)),
        ("int:3..10", IntegerRange(3, 10)),
        ("float:3..10", FloatRange(3.0, 10.0)),
        ("-1..2", IntegerRange(-1, 2)),
        ("adamw,sgd,adamw", Choices(("adamw", "sgd"))),
    ],
)
def test_forms_of_ranges(text: str, expected: SearchRange) -> None:
    assert parse_ranges({"name": text}) == {"name": expected}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("1e-5", "expected LOW..HIGH"),
        ("a,", "expected LOW..HIGH"),
        ("a..b", "is not a number"),
        ("int:0.5..2", "is not a number"),
        ("2..1", "must be less than the high end"),
        ("nan..1", "must be less than the high end"),
        ("log:0..1", "must be positive"),
    ],
)
def test_other_forms_are_refused(text: str, cause: str) -> None:
    with pytest.raises(UserError, match=rf"--search name={text}: .*{cause}"):
        parse_ranges({"name": text})


def test_nothing_to_search_and_names_given_twice() -> None:
    with pytest.raises(UserError, match="Nothing to search"):
        parse_ranges({})
    ranges = parse_ranges({"epochs": "1..3"})
    check_disjoint(ranges, ["seed"])
    with pytest.raises(UserError, match="epochs is given by"):
        check_disjoint(ranges, ["epochs"])


def test_objectives_have_a_direction() -> None:
    assert find_objective("validation:loss")[1] == "Minimize"
    assert find_objective("validation:macro_f1")[1] == "Maximize"
    with pytest.raises(UserError, match="did you mean 'validation:accuracy'"):
        find_objective("validation:acuracy")
    with pytest.raises(UserError, match="is no objective"):
        find_objective("train:loss")


def test_sagemaker_code_has_the_same_ranges() -> None:
    ranges = parse_ranges({"learning_rate": "log:1e-5..1e-2", "epochs": "3..9", "optimizer": "adamw,sgd"})
    calls: dict[str, object] = {}

    def record(name: str) -> Callable[..., object]:
        return lambda *values, **options: calls.setdefault(name, (values, options)) and name

    code = sagemaker_code(ranges, "validation:loss", 7, {"seed": "1"}).partition("\n\n")[2]
    names = ("ContinuousParameter", "IntegerParameter", "CategoricalParameter", "HyperparameterTuner")
    scope: dict[str, object] = {name: record(name) for name in names}
    scope["estimator"] = type("Estimator", (), {"set_hyperparameters": staticmethod(record("set"))})
    exec(code, scope)
    assert calls["ContinuousParameter"] == ((1e-5, 1e-2), {"scaling_type": "Logarithmic"})
    assert calls["IntegerParameter"] == ((3, 9), {})
    assert calls["CategoricalParameter"] == ((["adamw", "sgd"],), {})
    assert calls["set"] == ((), {"seed": "1"})
    tuner = calls["HyperparameterTuner"]
    assert isinstance(tuner, tuple)
    assert tuner[1]["objective_type"] == "Minimize"
    assert tuner[1]["max_jobs"] == 7
    assert list(tuner[1]["hyperparameter_ranges"]) == list(ranges)


def test_parameters_in_one_line() -> None:
    assert describe_parameters({"learning_rate": 0.00123456, "epochs": 3}) == "learning_rate=0.001235 epochs=3"
