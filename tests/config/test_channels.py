"""Channels that the job cannot read are rejected before any data is read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from finetune.config.channels import CheckedChannel, check_channels
from finetune.config.parse import parse_hyperparameters
from finetune.errors import UserError


@dataclass(frozen=True)
class Request:
    content_type: str | None = None
    input_mode: str = "file"
    record_wrapper: str = "none"


def message_for(channels: dict[str, Request], **raw: str) -> str:
    with pytest.raises(UserError) as caught:
        check_channels(channels, parse_hyperparameters(raw))
    return str(caught.value)


def test_channels_are_keyed_by_purpose_and_keep_names() -> None:
    requested = {
        "training": Request("application/x-image"),
        "valid": Request("image/PNG"),
        "test": Request(),
        "model": Request("application/x-sagemaker-model"),
        "train_lst": Request("application/x-image", "FastFile"),
    }
    checked = check_channels(requested, parse_hyperparameters({}))
    assert checked.by_purpose == {
        "train": CheckedChannel("training", "application/x-image"),
        "validation": CheckedChannel("valid", "image/png"),
        "test": CheckedChannel("test", None),
        "model": CheckedChannel("model", "application/x-sagemaker-model"),
        "train_lst": CheckedChannel("train_lst", "application/x-image"),
    }


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [("text/csv; label_size=1", "text/csv"), ("TEXT/CSV", "text/csv"), ("", None), ("application/octet-stream", None)],
)
def test_content_type_parameters_are_removed(content_type: str, expected: str | None) -> None:
    checked = check_channels({"train": Request(content_type)}, parse_hyperparameters({}))
    assert checked.by_purpose["train"].content_type == expected


def test_code_channel_is_ignored_with_note() -> None:
    checked = check_channels({"train": Request(), "code": Request()}, parse_hyperparameters({}))
    assert checked.by_purpose.keys() == {"train"}
    assert checked.notes == ("Channel 'code' is ignored: this image does not run user code.",)


@pytest.mark.parametrize(
    ("channels", "prefix"),
    [
        ({}, "There is no channel 'train'"),
        ({"test": Request()}, "There is no channel 'train'"),
        ({"train": Request(), "training": Request()}, "Channels 'train' and 'training' are the same channel"),
        # Its folder would have the path of the first FIFO of `train`.
        (
            {"train": Request(input_mode="Pipe"), "train_0": Request()},
            "Unknown channel 'train_0' (did you mean 'train'",
        ),
        ({"train": Request(), "validaton": Request()}, "Unknown channel 'validaton' (did you mean 'validation'?)"),
        ({"train": Request(input_mode="tube")}, "Channel 'train' has the unsupported input mode 'tube': use"),
        ({"train": Request("application/x-parquet", "Pipe")}, "Channel 'train' contains Parquet, which needs random"),
        ({"train": Request(), "model": Request(input_mode="Pipe")}, "Channel 'model' cannot be read in Pipe mode"),
        ({"train": Request(), "model": Request("text/csv")}, "Channel 'model' has the unsupported content type"),
        ({"train": Request(), "validation_lst": Request()}, "Channel 'validation_lst' lists files of the channel"),
        (
            {"train": Request(), "test_lst": Request()},
            "Channel 'test_lst' lists files of the channel 'test', which is missing",
        ),
        (
            {"train": Request(input_mode="Pipe"), "train_lst": Request()},
            "Channel 'train_lst' lists files of the channel 'train', which is in Pipe mode",
        ),
    ],
)
def test_invalid_channels_are_rejected(channels: dict[str, Request], prefix: str) -> None:
    assert message_for(channels).startswith(prefix)


def test_content_type_must_match_task() -> None:
    message = message_for({"train": Request("image/png")}, task="text-classification")
    assert message.startswith(
        "Channel 'train' has the unsupported content type 'image/png' for task text-classification: use one of"
    )
    assert "image/" not in message.partition("use one of")[2]


def test_image_lists_are_rejected_for_text_task() -> None:
    channels = {"train": Request(), "train_lst": Request()}
    assert "lists images" in message_for(channels, task="text-classification")


def test_evaluation_requires_records_but_no_train_channel() -> None:
    evaluation = parse_hyperparameters({"strategy": "evaluate"})
    assert check_channels({"test": Request()}, evaluation).by_purpose.keys() == {"test"}
    assert message_for({"model": Request()}, strategy="evaluate").startswith("strategy=evaluate needs a channel")


def test_early_stopping_requires_validation_records() -> None:
    raw = {"early_stopping_patience": "3", "validation_fraction": "0"}
    assert message_for({"train": Request()}, **raw).startswith("early_stopping_patience needs validation records")
    check_channels({"train": Request(), "validation": Request()}, parse_hyperparameters(raw))


def test_all_faults_are_reported_at_once() -> None:
    channels = {"training_data": Request(), "test": Request("text/html", "Tube")}
    assert len(message_for(channels).splitlines()) == 4


def test_scripts_for_the_trainer_evaluate_on_the_channel_test() -> None:
    requested = {"train": Request(), "test": Request()}
    checked = check_channels(requested, parse_hyperparameters({"num_train_epochs": "3"}))
    assert checked.by_purpose["validation"].name == "test"
    assert checked.notes == ("Channel 'test' is used for validation after every epoch, as scripts for the Trainer do.",)
    with_validation = check_channels(
        {**requested, "validation": Request()}, parse_hyperparameters({"num_train_epochs": "3"})
    )
    assert with_validation.by_purpose.keys() == {"train", "test", "validation"}
