"""Parsing of the platform's JSON files, including absent and broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.errors import PlatformError, UserError
from finetune.sagemaker.config_files import ChannelConfig, JobFiles, Resources, read_job_files
from finetune.sagemaker.paths import Paths


def write(root: Path, name: str, value: object) -> Paths:
    path = root / "input" / "config" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return Paths(root)


def test_folders_are_channels_without_configuration(tmp_path: Path) -> None:
    for name in ("train", "validation", ".hidden"):
        (tmp_path / "input" / "data" / name).mkdir(parents=True)
    (tmp_path / "input" / "data" / "manifest.json").write_text("{}")
    files = read_job_files(Paths(tmp_path))
    assert files.channels == {"train": ChannelConfig(), "validation": ChannelConfig()}
    assert files.hyperparameters == {}
    assert files.resources == Resources()


def test_empty_folder_is_empty_job(tmp_path: Path) -> None:
    assert read_job_files(Paths(tmp_path)) == JobFiles()
    assert list(tmp_path.iterdir()) == []


def test_json_values_become_text(tmp_path: Path) -> None:
    paths = write(tmp_path, "hyperparameters.json", {"epochs": 3, "strategy": "full", "multi_label": True, "lr": "0.1"})
    hyperparameters = read_job_files(paths).hyperparameters
    assert hyperparameters == {"epochs": "3", "strategy": "full", "multi_label": "true", "lr": "0.1"}


def test_channel_configuration_is_read(tmp_path: Path) -> None:
    entry = {
        "TrainingInputMode": "Pipe",
        "ContentType": "application/x-recordio",
        "S3DistributionType": "ShardedByS3Key",
        "RecordWrapperType": "RecordIO",
    }
    paths = write(tmp_path, "inputdataconfig.json", {"train": entry, "validation": {"TrainingInputMode": "File"}})
    channels = read_job_files(paths).channels
    assert channels["train"] == ChannelConfig("pipe", "application/x-recordio", "recordio", "shardedbys3key")
    assert channels["validation"] == ChannelConfig()


def test_resources_are_read(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        "resourceconfig.json",
        {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth0"},
    )
    assert read_job_files(paths).resources == Resources("algo-2", ("algo-1", "algo-2"), "eth0")


def test_checkpoint_folder_is_configurable(tmp_path: Path) -> None:
    paths = write(tmp_path, "checkpointconfig.json", {"LocalPath": "/elsewhere"})
    assert read_job_files(paths).checkpoints == Path("/elsewhere")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("hyperparameters.json", "{", "not JSON"),
        ("hyperparameters.json", "[1]", "list"),
        ("hyperparameters.json", '{"a": ' + "9" * 5000 + "}", "not JSON"),
        ("inputdataconfig.json", '{"a":' * 100_000, "nested too deeply"),
        ("resourceconfig.json", "[" * 100_000, "nested too deeply"),
        ("resourceconfig.json", {"hosts": ["a\0b"]}, "NUL"),
        ("resourceconfig.json", {"hosts": ["a\ud800"]}, "surrogate"),
        ("checkpointconfig.json", {"LocalPath": "/a\0b"}, "NUL"),
        ("inputdataconfig.json", {"train": "File"}, "'train'"),
        ("resourceconfig.json", {"hosts": []}, "hosts"),
        ("resourceconfig.json", {"current_host": "algo-9", "hosts": ["algo-1"]}, "algo-9"),
    ],
)
def test_invalid_file_is_named(tmp_path: Path, name: str, value: object, words: str) -> None:
    paths = write(tmp_path, name, value)
    with pytest.raises(PlatformError, match=words) as caught:
        read_job_files(paths)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["hyperparameters.json", "inputdataconfig.json", "resourceconfig.json"])
def test_file_not_in_utf8_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "input" / "config" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(PlatformError, match=name):
        read_job_files(Paths(tmp_path))


def test_deeply_nested_hyperparameters_are_a_user_error(tmp_path: Path) -> None:
    paths = write(tmp_path, "hyperparameters.json", '{"a":' * 100_000)
    with pytest.raises(UserError, match=r"hyperparameters\.json is JSON that is nested too deeply"):
        read_job_files(paths)


def test_brackets_in_strings_are_not_nesting(tmp_path: Path) -> None:
    text = json.dumps(["[" * 500, "{" * 500])
    assert read_job_files(write(tmp_path, "hyperparameters.json", {"class_names": text})).hyperparameters
