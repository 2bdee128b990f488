"""Checks at build time that the image is complete and free of unwanted files; a fault fails the build.

python -m container.smoke LOCK
"""

from __future__ import annotations

import ctypes
import importlib
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

MODULES = (
    *("torch", "torchvision", "transformers", "timm", "tokenizers", "sentencepiece", "safetensors", "pydantic", "PIL"),
    *("numpy", "pandas", "pyarrow.parquet", "sklearn.metrics", "scipy.stats", "matplotlib.pyplot", "boto3"),
    *("sagemaker_training.trainer", "smdebug.pytorch", "psutil", "requests"),
    *("finetune.entry", "finetune.job.run", "container.job", "container.user_script", "container.other_module"),
    *("finetune.serving.server", "finetune.serving.model", "container.serve", "finetune.cli.app", "container.cli"),
)
COMMANDS = {"train": "train.py", "serve": "serve.py", "finetune": "cli.py"}
COMPILERS = ("cc", "c99", "gcc", "g++", "clang", "nvcc", "make", "ld", "as")
FORBIDDEN_FILES = ("*.a", "tests/test_*.py", "test/test_*.py", "include", "id_rsa*", "ssh_host_*")


def find_faults(lock: Path) -> Iterator[str]:
    """Yield a message for each fault."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  # an import may raise anything
            yield f"{name} cannot be imported: {error!r}"
    yield from _find_torch_faults()
    yield from _find_version_faults(lock)
    yield from (f"{name} is in the image: {shutil.which(name)}" for name in COMPILERS if shutil.which(name))
    for name, file in COMMANDS.items():
        command = shutil.which(name)
        if command is None or Path(command).resolve() != Path(__file__).with_name(file):
            yield f"the command {name} is {command}, not container/{file}"
    for pattern in FORBIDDEN_FILES:
        yield from (f"{path} must not be in the image" for path in Path(sys.prefix).rglob(pattern))


def _find_torch_faults() -> Iterator[str]:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1], [5.0, 5.0, 6.0, 6.0]])
    if torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() != [0, 2]:
        yield "torchvision::nms does not work"
    if torch.version.cuda is None:
        yield "torch is built without CUDA"
    for library in sorted((Path(torch.__file__).parent / "lib").glob("*.so")):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            if "libcuda.so" in str(error):  # part of the driver, provided by the host
                continue
            yield f"{library.name} cannot be loaded: {error}"


def _find_version_faults(lock: Path) -> Iterator[str]:
    pins = dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    installed = {
        re.sub(r"[-_.]+", "-", distribution.name).lower(): distribution.version.partition("+")[0]
        for distribution in distributions(path=[sysconfig.get_path("purelib")])
    }
    for name in sorted(pins.keys() | installed.keys()):
        if pins.get(name) != installed.get(name):
            yield f"{name} is locked at {pins.get(name)}, installed at {installed.get(name)}"


if __name__ == "__main__":
    messages = list(find_faults(Path(sys.argv[1])))
    sys.exit("\n".join(messages) if messages else 0)
