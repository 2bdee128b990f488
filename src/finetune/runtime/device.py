"""Selects the device of the job, and reports early if an expected GPU cannot be used."""

from __future__ import annotations

import ctypes
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from finetune.errors import PlatformError

Version = tuple[int, int]

_GPU_INSTANCE = re.compile(r"ml\.[pg]\d|local_gpu")
_UNSPECIFIED = {"", "all"}
_NO_GPU = {"none", "void"}


@dataclass(frozen=True, slots=True)
class Gpu:
    """NVIDIA hardware and software visible to this process.

    Attributes:
        problem: why PyTorch cannot use a GPU; empty if it can.
        driver: newest CUDA version supported by the host's driver; `None` without a driver.
        built_cuda: CUDA version of the PyTorch build; `None` for a CPU build.
        name: name of the first GPU.
        capability: compute capability of the first GPU.
        oldest: lowest compute capability supported by the PyTorch build.
    """

    problem: str = ""
    driver: Version | None = None
    built_cuda: Version | None = None
    name: str = ""
    capability: Version = (0, 0)
    oldest: Version = (0, 0)


def choose_device(
    instance_type: str | None, local_rank: int = 0, environment: Mapping[str, str] = os.environ
) -> torch.device:
    """Choose the GPU if PyTorch can use one, and the CPU if no GPU is expected.

    An empty `CUDA_VISIBLE_DEVICES`, CUDA's own way to hide all GPUs, selects the CPU.

    Args:
        instance_type: of the machine, as the platform names it.
        local_rank: index of this process among those of the machine, one per GPU.
        environment: variables that may hide GPUs, or name the ones assigned to the container.

    Raises:
        PlatformError: a GPU is present or expected, but cannot be used.
    """
    if environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in {"", "-1"}:
        return torch.device("cpu")
    device = select_device(detect_gpu(), reason_to_expect_gpu(instance_type, environment))
    return torch.device(device.type, local_rank) if device.type == "cuda" and local_rank else device


def reason_to_expect_gpu(instance_type: str | None, environment: Mapping[str, str]) -> str | None:
    """The setting that implies a GPU in this container, if any. The image itself always requests `all` GPUs."""
    visible = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    if visible in _NO_GPU:
        return None
    if instance_type is not None and _GPU_INSTANCE.match(instance_type):
        return instance_type
    return None if visible in _UNSPECIFIED else f"NVIDIA_VISIBLE_DEVICES={visible}"


def select_device(gpu: Gpu, expected: str | None) -> torch.device:
    """Choose the device from the detected GPU and the expectation.

    Raises:
        PlatformError: the driver or the GPU is too old, or the GPU is missing or broken.
    """
    if gpu.driver and gpu.built_cuda and gpu.driver[0] < gpu.built_cuda[0]:
        raise PlatformError(
            f"The host's NVIDIA driver is too old for this image: it supports CUDA {_format_version(gpu.driver)}, and"
            f" PyTorch is built for CUDA {_format_version(gpu.built_cuda)}. Use a host with a newer driver, or an image"
            " with an older PyTorch; CUDA_VISIBLE_DEVICES= (empty) trains on the CPU."
        )
    if not gpu.problem and gpu.capability < gpu.oldest:
        raise PlatformError(
            f"The GPU is too old for this image: {gpu.name} has compute capability {_format_version(gpu.capability)},"
            f" and PyTorch is built for {_format_version(gpu.oldest)} and newer. Use a newer instance type, such as"
            " ml.g5 or ml.p4d."
        )
    if not gpu.problem:
        return torch.device("cuda")
    if expected is not None:
        raise PlatformError(
            f"A GPU is expected ({expected}), but PyTorch finds none: {gpu.problem}. Outside the platform, start the"
            " container with docker run --gpus all; CUDA_VISIBLE_DEVICES= (empty) trains on the CPU."
        )
    return torch.device("cpu")


def device_lines(device: torch.device, arithmetic: str, used: int = 1) -> list[str]:
    """Plan lines about the device and its arithmetic, and about unused GPUs.

    Args:
        device: device of this process.
        arithmetic: floating-point type.
        used: number of GPUs of this host that the job uses.
    """
    if device.type != "cuda":
        return [f"device    {device}, {arithmetic}"]
    properties = torch.cuda.get_device_properties(device)
    return gpu_lines(properties.name, properties.total_memory, torch.cuda.device_count(), arithmetic, used)


def gpu_lines(name: str, memory: int, count: int, arithmetic: str, used: int = 1) -> list[str]:
    """Plan lines for a host with `count` GPUs with `memory` bytes each, of which the job uses `used`."""
    lines = [f"device    cuda ({name}, {memory / 2**30:.0f} GiB), {arithmetic}"]
    if count > used:
        verb = "is" if used == 1 else "are"
        lines.append(f"          only {used} of {count} GPUs {verb} used: an instance type with fewer GPUs costs less")
    return lines


def use_deterministic_kernels() -> None:
    """Let PyTorch use only GPU kernels that give the same bits in every run.

    Must be called before the first operation on a GPU. An operation without such a kernel raises an error.
    """
    # Required by cuBLAS: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def detect_gpu() -> Gpu:
    """Query the driver, if there is one, and PyTorch."""
    built_cuda = _parse_version(torch.version.cuda)
    driver = _driver_version()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usable = torch.cuda.is_available()
    if usable:
        oldest = min((_parse_capability(name) for name in torch.cuda.get_arch_list()), default=(0, 0))
        name, capability = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
        return Gpu("", driver, built_cuda, name, capability, oldest)
    if built_cuda is None:
        return Gpu("it is built without CUDA", driver)
    if driver is None:
        return Gpu("the container has no NVIDIA driver", None, built_cuda)
    return Gpu(_cuda_problem(), driver, built_cuda)


def _driver_version() -> Version | None:
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return (version.value // 1000, version.value % 1000 // 10) if version.value else None


def _cuda_problem() -> str:
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0].rstrip(".")
    return "there is a driver, but no device"


def _parse_version(text: str | None) -> Version | None:
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor or 0)) if major else None


def _parse_capability(architecture: str) -> Version:
    """Parse `sm_75` and `compute_120` to (7, 5) and (12, 0)."""
    digits = re.sub(r"\D", "", architecture)
    return int(digits[:-1]), int(digits[-1])


def _format_version(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
