"""Checks whether this machine can train: software, memory, disk, network, GPUs, and a training step on each device."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from finetune.errors import PlatformError
from finetune.launch.devices import gpu_count, gpu_model

PACKAGES = ("finetune", "torch", "torchvision", "transformers", "timm", "numpy", "pillow", "safetensors", "pydantic")
_OPTIONAL = {"timm": "timm models cannot be trained", "optuna": "finetune tune is not available"}
_MIN_MEMORY, _MIN_DISK, _MIN_SHARED = 4 << 30, 5 << 30, 64 << 20
_GIB = 1 << 30
_TIMEOUT_SECONDS = 3.0
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - its size is read

Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Check:
    """Result of a check.

    Attributes:
        name: the thing that was checked.
        level: `failure` if training cannot work, `warning` if some jobs cannot.
        text: its state, and the remedy of a problem.
    """

    name: str
    level: Level
    text: str


def diagnose(environment: Mapping[str, str] = os.environ) -> Iterator[Check]:
    """Yield the result of each check, the quick ones first."""
    yield Check("system", "ok", f"{platform.platform()}, Python {platform.python_version()} ({sys.executable})")
    yield from _packages()
    yield from _memory()
    yield from _disk(environment)
    yield from _network(environment)
    yield from _devices(environment)


def _packages() -> Iterator[Check]:
    versions, missing = [], []
    for name in (*PACKAGES, "optuna"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    yield Check("packages", "ok", ", ".join(versions))
    for name in missing:
        effect = _OPTIONAL.get(name)
        yield Check(name, "warning" if effect else "failure", f"not installed{f': {effect}' if effect else ''}")


def _memory() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    level: Level = "ok" if total >= _MIN_MEMORY else "warning"
    yield Check("memory", level, f"{total / _GIB:.1f} GiB, {cores} CPU cores{_below(level, _MIN_MEMORY)}")
    if _SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(_SHARED_MEMORY).total
        level = "ok" if shared >= _MIN_SHARED else "warning"
        remedy = "" if level == "ok" else "; with Docker, use --shm-size=1g"
        yield Check("shared memory", level, f"{shared / _GIB:.1f} GiB in {_SHARED_MEMORY}{remedy}")


def _disk(environment: Mapping[str, str]) -> Iterator[Check]:
    cache = Path(environment.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    for name, folder in (
        ("jobs", Path.cwd()),
        ("temporary files", Path(tempfile.gettempdir())),
        ("model weights", cache),
    ):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        level: Level = "ok" if free >= _MIN_DISK else "warning"
        if not os.access(existing, os.W_OK):
            yield Check("disk", "failure" if name != "model weights" else "warning", f"{existing} cannot be written")
            continue
        yield Check("disk", level, f"{free / _GIB:.1f} GiB free for {name} ({folder}){_below(level, _MIN_DISK)}")


def _below(level: Level, minimum: int) -> str:
    return "" if level == "ok" else f"; jobs may need {minimum // _GIB} GiB or more"


def _network(environment: Mapping[str, str]) -> Iterator[Check]:
    names = [name for _, name in socket.if_nameindex()]
    yield Check("network", "ok", f"interfaces {', '.join(names) or 'none'}")
    if environment.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        yield Check("hub", "warning", "not used (HF_HUB_OFFLINE): pretrained weights must be on this machine")
        return
    from huggingface_hub.constants import ENDPOINT

    hub = environment.get("HF_ENDPOINT") or ENDPOINT
    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    server = urlsplit(proxy or hub)
    name = f"the proxy {server.hostname}" if proxy else f"{server.hostname}"
    try:
        port = server.port or (80 if server.scheme == "http" else 443)
        socket.create_connection((server.hostname or "", port), _TIMEOUT_SECONDS).close()
        yield Check("hub", "ok", f"{name} is reachable")
    except OSError as error:
        text = f"{name} is not reachable ({error}): pretrained weights must be on this machine, or come through"
        yield Check("hub", "warning", f"{text} a proxy (HTTPS_PROXY)")


def _devices(environment: Mapping[str, str]) -> Iterator[Check]:
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("torchvision")
    except (ImportError, OSError) as error:
        yield Check("PyTorch", "failure", f"cannot be imported: {error}")
        return
    from finetune.runtime.device import detect_gpu

    gpu = detect_gpu()
    present = gpu_count(environment)
    if gpu.driver is not None:
        built = "no CUDA" if gpu.built_cuda is None else f"CUDA {gpu.built_cuda[0]}.{gpu.built_cuda[1]}"
        yield Check("driver", "ok", f"NVIDIA, for CUDA {gpu.driver[0]}.{gpu.driver[1]}; PyTorch is built for {built}")
    usable = 0 if gpu.problem else torch.cuda.device_count()
    for number in range(usable):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        text = f"cuda:{number} {properties.name}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        yield Check("GPU", "ok", text)
    if not usable:
        found = f"{present} present ({gpu_model() or 'unknown model'}), but" if present else "none, because"
        text = f"{found} {gpu.problem}" if present or gpu.driver else "none; jobs train on the CPU"
        yield Check("GPU", "failure" if present else "ok", text)
    yield from _self_tests([*(f"cuda:{number}" for number in range(usable)), "cpu"])


def _self_tests(devices: list[str]) -> Iterator[Check]:
    import torch

    from finetune.runtime.self_test import run_self_test

    for name in devices:
        try:
            result = run_self_test(torch.device(name))
        except PlatformError as error:
            yield Check("training step", "failure", str(error))
        else:
            yield Check("training step", "ok", f"{name} in {result.precision}, {1000 * result.seconds:.1f} ms")
