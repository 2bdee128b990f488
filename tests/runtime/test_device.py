"""A GPU is used if there is one, and its absence is reported where one is expected."""

from __future__ import annotations

import pytest
import torch

from finetune.errors import PlatformError
from finetune.runtime.device import (
    Gpu,
    choose_device,
    detect_gpu,
    device_lines,
    gpu_lines,
    reason_to_expect_gpu,
    select_device,
)

GOOD = Gpu("", (13, 0), (13, 0), "NVIDIA A10G", (8, 6), (7, 5))
NO_DRIVER = Gpu("the container has no NVIDIA driver", None, (13, 0))


@pytest.mark.parametrize("expected", [None, "ml.g5.xlarge"])
def test_usable_gpu_is_selected(expected: str | None) -> None:
    assert select_device(GOOD, expected) == torch.device("cuda")


def test_newer_driver_supports_older_build() -> None:
    assert select_device(Gpu("", (14, 1), (13, 0), "NVIDIA A10G", (8, 6), (7, 5)), None) == torch.device("cuda")


def test_cpu_is_selected_if_no_gpu_is_expected() -> None:
    assert select_device(NO_DRIVER, None) == torch.device("cpu")


@pytest.mark.parametrize(
    "gpu, expected, prefix, part",
    [
        (NO_DRIVER, "ml.p4d.24xlarge", "A GPU is expected (ml.p4d.24xlarge)", "no NVIDIA driver"),
        (Gpu("broken", (12, 8), (13, 0)), None, "The host's NVIDIA driver is too old", "CUDA 12.8"),
        (Gpu("", (13, 0), (13, 0), "Tesla V100", (7, 0), (7, 5)), None, "The GPU is too old", "Tesla V100"),
        (Gpu("no CUDA-capable device", (13, 0), (13, 0)), "ml.g5.xlarge", "A GPU is expected", "CUDA-capable"),
    ],
)
def test_unusable_gpu_is_refused_with_cause_first(gpu: Gpu, expected: str | None, prefix: str, part: str) -> None:
    with pytest.raises(PlatformError) as raised:
        select_device(gpu, expected)
    message = str(raised.value)
    assert message.startswith(prefix)
    assert part in message
    assert len(message) < 1024


@pytest.mark.parametrize(
    "instance_type, visible, expected",
    [
        ("ml.g5.xlarge", "all", "ml.g5.xlarge"),
        ("ml.p5.48xlarge", "", "ml.p5.48xlarge"),
        ("local_gpu", "all", "local_gpu"),
        ("ml.m5.xlarge", "all", None),
        ("ml.c5.xlarge", "0,1", "NVIDIA_VISIBLE_DEVICES=0,1"),
        ("local", "", None),
        (None, "all", None),
        ("ml.g5.xlarge", "none", None),
    ],
)
def test_reasons_to_expect_gpu(instance_type: str | None, visible: str, expected: str | None) -> None:
    assert reason_to_expect_gpu(instance_type, {"NVIDIA_VISIBLE_DEVICES": visible}) == expected


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_select_cpu(hidden: str) -> None:
    assert choose_device("ml.g5.xlarge", environment={"CUDA_VISIBLE_DEVICES": hidden}) == torch.device("cpu")


def test_detection_agrees_with_torch() -> None:
    gpu = detect_gpu()
    assert (gpu.problem == "") == torch.cuda.is_available()
    assert gpu.built_cuda is not None
    if not torch.cuda.is_available():
        assert select_device(gpu, None) == torch.device("cpu")


def test_plan_lines_name_gpu_and_unused_ones() -> None:
    memory = 23_600_000_000
    assert gpu_lines("NVIDIA A10G", memory, 1, "bf16") == ["device    cuda (NVIDIA A10G, 22 GiB), bf16"]
    first, second = gpu_lines("NVIDIA A10G", memory, 4, "bf16, compiled")
    assert first == "device    cuda (NVIDIA A10G, 22 GiB), bf16, compiled"
    assert second.startswith("          only 1 of 4 GPUs is used")


def test_plan_line_names_cpu() -> None:
    assert device_lines(torch.device("cpu"), "fp32") == ["device    cpu, fp32"]
