"""Cache key of features: a hash of everything that determines their bits."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version

import torch

import finetune
from finetune.data.bad_records import BadRecordError
from finetune.data.loading.batches import Batches
from finetune.errors import DataError
from finetune.features.extractor import FeatureExtractor
from finetune.models.backbone import Backbone, ImageInput
from finetune.models.fingerprint import digest_of_frozen

_LIBRARIES = ("torch", "torchvision", "pillow", "transformers", "tokenizers")
_NOT_THE_FRONT = frozenset({"num_classes", "num_labels", "id2label", "label2id", "problem_type", "_name_or_path"})
_AT_ONCE = 256
_MOST_THREADS = 16


@dataclass(frozen=True, slots=True)
class Front:
    """The frozen prefix of a model and the configuration of its forward pass.

    `border` is the split index, and `precision` the name of the numerics.
    """

    backbone: Backbone
    split_index: int
    run: FeatureExtractor
    precision: str


def feature_key(front: Front, batches: Batches, variation: Sequence[object]) -> str:
    """Return the cache key of the features of some records, 64 hexadecimal digits. Reads every record once.

    Args:
        front: frozen prefix that computes the features.
        batches: batches of the records.
        variation: JSON values that determine the augmentation; empty without augmentation.
    """
    backbone, border, run = front.backbone, front.split_index, front.run
    told = {
        "network": _structure(backbone, border),
        "weights": digest_of_frozen(backbone, [group.name for group in backbone.layer_groups()[border:]]),
        "input": asdict(backbone.expects) if isinstance(backbone.expects, ImageInput) else backbone.expects.max_length,
        "variation": list(variation),
        "run": [
            "folded",
            "masks apart",
            front.precision,
            run.chunk,
            run.longest,
            str(run.device.type),
            *_machine(run.device),
        ],
        "versions": [finetune.__version__, *(f"{name} {version(name)}" for name in _LIBRARIES)],
        "records": _digest_of_contents(batches, named=bool(variation)),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _structure(backbone: Backbone, border: int) -> list[object]:
    """Describe the computation of the frozen prefix without its weights, class names and file location."""
    description, config = backbone.describe(), getattr(backbone.module, "config", None)
    layers = [repr(module) for group in backbone.layer_groups()[:border] for module in group.modules]
    known = {**description.arguments, **(config.to_dict() if config else {})}
    known = {name: value for name, value in known.items() if name not in _NOT_THE_FRONT}
    return [description.framework, description.architecture, border, layers, known]


def _machine(device: torch.device) -> list[object]:
    """Describe the hardware and libraries that the last bits depend on, as far as they are known."""
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # in torch
        return [torch.cuda.get_device_name(device), torch.version.cuda, cudnn]
    return [platform.machine(), torch.backends.cpu.get_cpu_capability(), "one thread"]


def _digest_of_contents(batches: Batches, *, named: bool) -> str:
    """Hash the contents of the records in dataset order, with their keys if augmentation depends on those."""
    digest = hashlib.sha256()
    count = len(batches.dataset)
    with ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0)))) as threads:
        for start in range(0, count, _AT_ONCE):
            positions = range(start, min(start + _AT_ONCE, count))
            digests = threads.map(lambda at: _digest_of(batches, at), positions)
            for position, one in zip(positions, digests, strict=True):
                digest.update(one + (batches.dataset.key(position).encode() + b"\0" if named else b""))
    return digest.hexdigest()


def _digest_of(batches: Batches, position: int) -> bytes:
    """Hash the bytes of an image, or the tokens of a text, which also represent its tokenizer."""
    dataset, digest = batches.dataset, hashlib.sha256()
    try:
        content = dataset.reader.read(dataset.indices[position]).content
        if isinstance(content, bytes):
            digest.update(content)
        else:
            for name, tokens in sorted(dataset.transform(content, None).items()):
                digest.update(name.encode() + tokens.numpy().tobytes())
    except (BadRecordError, DataError):
        # A bad record never has features.
        digest.update(b"bad")
    return digest.digest()
