"""Transformers models are found in the image and on the hub; local folders need no network access."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Never

import huggingface_hub.constants as hub
import pytest
import torch

from finetune.errors import UserError
from finetune.models.load import load_backbone
from tests.support.model_requests import logits_of, request_model
from tests.support.tiny_transformers import write_folder

NAME = "someone/some-bert"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert", "bert", labels=("no", "yes"))


@pytest.fixture
def cached(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that contains the model."""
    cache = tmp_path / "cache"
    repository = cache / f"models--{NAME.replace('/', '--')}"
    revision = "0" * 40
    shutil.copytree(folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(cache))
    return repository / "snapshots" / revision


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every network call is refused and recorded, although the hub is not set to offline mode."""
    calls: list[object] = []

    def refuse(*arguments: object, **_: object) -> Never:
        calls.append(arguments)
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return calls


def test_cached_model_is_found_by_name(cached: Path, folder: Path, tmp_path: Path) -> None:
    by_name = load_backbone(request_model(NAME, tmp_path, task="text-classification"))
    assert (by_name.name, by_name.weights.source) == (NAME, f"hub ({NAME})")
    assert torch.equal(
        logits_of(by_name),
        logits_of(load_backbone(request_model(None, tmp_path, task="text-classification", channel=folder))),
    )


def test_image_weights_take_precedence_over_the_hub(cached: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "baked" / NAME)
    backbone = load_backbone(request_model(NAME, tmp_path, task="text-classification", baked=tmp_path / "baked"))
    assert (backbone.name, backbone.weights.source) == (NAME, "weights in the image (transformers folder)")


def test_model_name_may_be_a_folder(folder: Path, tmp_path: Path) -> None:
    backbone = load_backbone(request_model(str(folder), tmp_path, task="text-classification"))
    assert backbone.weights.source == f"folder {folder} (transformers folder)"


def test_local_folder_needs_no_network_access(folder: Path, tmp_path: Path, no_network: list[object]) -> None:
    load_backbone(request_model(None, tmp_path, task="text-classification", channel=folder))
    load_backbone(request_model(None, tmp_path, task="text-classification", channel=folder, pretrained=False))
    assert no_network == []


@pytest.mark.parametrize("pretrained", [True, False])
def test_uncached_model_without_network_access_is_refused(
    pretrained: bool, tmp_path: Path, no_network: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=f"for '{NAME}', and the download failed") as caught:
        load_backbone(request_model(NAME, tmp_path, task="text-classification", pretrained=pretrained))
    assert all(f"({number})" in str(caught.value) for number in (1, 2, 3))
    assert ("from_scratch" in str(caught.value)) == pretrained
    assert no_network


def test_offline_mode_is_respected(tmp_path: Path, no_network: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"the download failed .*\(1\)"):
        load_backbone(request_model(None, tmp_path, task="text-classification"))
    assert no_network == []


def test_loading_prints_nothing(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    backbone = load_backbone(request_model(None, tmp_path, task="text-classification", channel=folder))
    saved = tmp_path / "saved"
    saved.mkdir()
    capfd.readouterr()
    load_backbone(request_model(None, tmp_path, task="text-classification", channel=folder))
    backbone.save(saved)
    assert capfd.readouterr() == ("", "")
    assert all(record.name.startswith("finetune") for record in caplog.records)


def test_library_logging_is_restored(folder: Path, tmp_path: Path) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled())
    load_backbone(request_model(None, tmp_path, task="text-classification", channel=folder))
    after = (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled())
    assert before == after
