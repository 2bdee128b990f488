"""A GPU is used if there is one, and its absence is reported where one is expected."""

from __future__ import annotations

import pytest
import torch

from finetune.errors import PlatformError
from finetune.runtime.device import Gpu, choose_device, device_lines, expected_because, gpu_lines, judge, look_for_gpu

GOOD = Gpu("", (13, 0), (13, 0), "NVIDIA A10G", (8, 6), (7, 5))
NO_DRIVER = Gpu("the container has no NVIDIA driver", None, (13, 0))


@pytest.mark.parametrize("expected", [None, "ml.g5.xlarge"])
def test_a_good_gpu_is_taken(expected: str | None) -> None:
    assert judge(GOOD, expected) == torch.device("cuda")


def test_a_newer_driver_serves_an_older_build() -> None:
    assert judge(Gpu("", (14, 1), (13, 0), "NVIDIA A10G", (8, 6), (7, 5)), None) == torch.device("cuda")


def test_without_a_gpu_where_none_is_expected_the_cpu_computes() -> None:
    assert judge(NO_DRIVER, None) == torch.device("cpu")


@pytest.mark.parametrize(
    "gpu, expected, beginning, named",
    [
        (NO_DRIVER, "ml.p4d.24xlarge", "There should be a GPU (ml.p4d.24xlarge)", "no NVIDIA driver"),
        (Gpu("broken", (12, 8), (13, 0)), None, "The host's NVIDIA driver is too old", "CUDA 12.8"),
        (Gpu("", (13, 0), (13, 0), "Tesla V100", (7, 0), (7, 5)), None, "The GPU is too old", "Tesla V100"),
        (Gpu("no CUDA-capable device", (13, 0), (13, 0)), "ml.g5.xlarge", "There should be a GPU", "CUDA-capable"),
    ],
)
def test_what_is_wrong_comes_first(gpu: Gpu, expected: str | None, beginning: str, named: str) -> None:
    with pytest.raises(PlatformError) as raised:
        judge(gpu, expected)
    message = str(raised.value)
    assert message.startswith(beginning)
    assert named in message
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
def test_what_makes_a_gpu_expected(instance_type: str | None, visible: str, expected: str | None) -> None:
    assert expected_because(instance_type, {"NVIDIA_VISIBLE_DEVICES": visible}) == expected


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_not_missed(hidden: str) -> None:
    assert choose_device("ml.g5.xlarge", {"CUDA_VISIBLE_DEVICES": hidden}) == torch.device("cpu")


def test_what_is_seen_here_agrees_with_torch() -> None:
    gpu = look_for_gpu()
    assert (gpu.trouble == "") == torch.cuda.is_available()
    assert gpu.built_for is not None
    if not torch.cuda.is_available():
        assert judge(gpu, None) == torch.device("cpu")


def test_the_plan_names_the_gpu_and_how_many_stay_idle() -> None:
    memory = 23_600_000_000
    assert gpu_lines("NVIDIA A10G", memory, 1, "bf16") == ["device    cuda (NVIDIA A10G, 22 GiB), bf16"]
    first, second = gpu_lines("NVIDIA A10G", memory, 4, "bf16, compiled")
    assert first == "device    cuda (NVIDIA A10G, 22 GiB), bf16, compiled"
    assert second.startswith("          1 of 4 GPUs computes")


def test_the_plan_of_a_job_without_a_gpu_says_so() -> None:
    assert device_lines(torch.device("cpu"), "fp32") == ["device    cpu, fp32"]
