"""A tool is recognized by names that only it has."""

from __future__ import annotations

import pytest

from finetune.config.descriptions import all_hyperparameters
from finetune.config.dialects.recognize import recognize
from finetune.config.dialects.table import DIALECTS


@pytest.mark.parametrize(
    ("names", "task", "dialect"),
    [
        ("epochs batch_size learning_rate model_name", "", None),
        ("num_layers epochs", "", "mxnet_image_classification"),
        ("train_only_on_top_layer", "", "tensorflow_image_classification"),
        ("train_only_on_top_layer", "text-classification", "tensorflow_text_classification"),
        ("train_only_on_top_layer warmup_steps_fraction", "", "tensorflow_text_classification"),
        ("train_only_top_layer train_only_on_top_layer binary_mode", "", "tensorflow_image_classification"),
        ("mode", "", "blazingtext"),
        ("train_only_top_layer", "", "jumpstart"),
        ("num_train_epochs", "", "huggingface"),
    ],
)
def test_dialect_of_names(names: str, task: str, dialect: str | None) -> None:
    found = recognize(names.split(), task).dialect
    assert (found.name if found else None) == dialect


def test_names_of_two_tools_are_reported() -> None:
    recognized = recognize(["num_layers", "num_train_epochs"], "")
    assert recognized.dialect is None
    assert "num_layers" in recognized.note
    assert "set dialect to one of mxnet_image_classification, huggingface" in recognized.note


def test_no_dialect_is_recognized_by_a_name_of_this_project() -> None:
    names = {name for dialect in DIALECTS.values() for name in dialect.identified_by | dialect.shared_names}
    assert not names & all_hyperparameters().keys()
