"""Checks of this machine."""

from __future__ import annotations

import socket

import pytest
import torch

from finetune.errors import PlatformError
from finetune.local import diagnosis
from finetune.runtime.self_test import run_self_test
from tests.cli.conftest import Finetune
from tests.cli.conftest import finetune_command as finetune_command


def test_this_machine_can_train(finetune_command: Finetune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = finetune_command("doctor")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok       packages        finetune ") for line in lines)
    assert any(line.startswith("warning  hub             not used (HF_HUB_OFFLINE)") for line in lines)
    assert any(line.startswith("ok       training step   cpu in ") for line in lines)


def test_failures_end_with_the_code_of_the_platform(
    finetune_command: Finetune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "PACKAGES", ("timm", "no-such-package"))
    monkeypatch.setattr(diagnosis, "_devices", lambda environment: iter(()))
    done = finetune_command("doctor")
    assert done.exit_code == 2
    assert "failure  no-such-package not installed" in done.stdout


def test_the_hub_is_contacted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        checks = list(diagnosis._network({"HF_ENDPOINT": f"http://127.0.0.1:{port}"}))
    assert [(check.name, check.level) for check in checks] == [("network", "ok"), ("hub", "ok")]
    (_, lost) = diagnosis._network({"HF_ENDPOINT": "http://hub", "HTTPS_PROXY": f"http://127.0.0.1:{port}"})
    assert lost.level == "warning"
    assert lost.text.startswith("the proxy 127.0.0.1 is not reachable")


def test_a_device_that_cannot_compute_is_reported() -> None:
    with pytest.raises(PlatformError, match="A training step on meta failed"):
        run_self_test(torch.device("meta"))
