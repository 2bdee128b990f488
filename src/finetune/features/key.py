"""Cache key of features: a hash of everything that determines their bits."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

import torch

import finetune
from finetune.data.bad_records import BadRecordError
from finetune.data.loading.batches import Batches
from finetune.distributed.world import World
from finetune.errors import DataError
from finetune.features.extractor import FeatureExtractor
from finetune.models.backbone import Backbone
from finetune.models.fingerprint import digest_frozen_weights
from finetune.runtime.threads import usable_cores

_LIBRARIES = ("torch", "torchvision", "pillow", "transformers", "tokenizers", "timm")
_HEAD_CONFIG_NAMES = frozenset({"num_classes", "num_labels", "id2label", "label2id", "problem_type", "_name_or_path"})
_ONE_PROCESS = World()
_RECORDS_AT_ONCE = 256
_MAX_THREADS = 16


@dataclass(frozen=True, slots=True)
class FrozenPrefix:
    """The frozen prefix of a model and the configuration of its forward pass.

    `precision` is the name of the numerics.
    """

    backbone: Backbone
    split_index: int
    extractor: FeatureExtractor
    precision: str


def feature_key(
    prefix: FrozenPrefix, batches: Batches, variation: Sequence[object], world: World = _ONE_PROCESS
) -> str:
    """Return the cache key of the features of some records, 64 hexadecimal digits. Reads every record once.

    Args:
        prefix: frozen prefix that computes the features.
        batches: batches of the records.
        variation: JSON values that determine the augmentation; empty without augmentation.
        world: the processes that read the records together.
    """
    backbone, split_index, extractor = prefix.backbone, prefix.split_index, prefix.extractor
    fields = {
        "network": _describe_structure(backbone, split_index),
        "weights": digest_frozen_weights(backbone, [group.name for group in backbone.layer_groups()[split_index:]]),
        "input": backbone.expects.cache_key(),
        "variation": list(variation),
        "run": [
            "folded",
            "masks apart",
            prefix.precision,
            extractor.chunk_size,
            extractor.max_length,
            str(extractor.device.type),
            *_describe_machine(extractor.device),
        ],
        "versions": [finetune.__version__, *(f"{name} {version(name)}" for name in _LIBRARIES)],
        "records": _digest_records(batches, world, with_keys=bool(variation)),
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


def _describe_structure(backbone: Backbone, split_index: int) -> list[object]:
    """Describe the computation of the frozen prefix without its weights, class names and file location."""
    description, config = backbone.describe(), getattr(backbone.module, "config", None)
    layers = [repr(module) for group in backbone.layer_groups()[:split_index] for module in group.modules]
    config_values = {**description.arguments, **(config.to_dict() if config else {})}
    config_values = {name: value for name, value in config_values.items() if name not in _HEAD_CONFIG_NAMES}
    return [description.framework, description.architecture, split_index, layers, config_values]


def _describe_machine(device: torch.device) -> list[object]:
    """Describe the hardware and libraries that the last bits depend on, as far as they are known."""
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # in torch
        return [torch.cuda.get_device_name(device), torch.version.cuda, cudnn]
    return [platform.machine(), torch.backends.cpu.get_cpu_capability(), "one thread"]


def _digest_records(batches: Batches, world: World, *, with_keys: bool) -> str:
    """Hash the contents of the records in dataset order, with their keys if augmentation depends on those."""
    digest = hashlib.sha256()
    count = len(batches.dataset)
    own: list[bytes] = []
    with ThreadPoolExecutor(min(_MAX_THREADS, max(1, usable_cores() // world.local_size))) as threads:
        for start in range(world.rank, count, world.size * _RECORDS_AT_ONCE):
            positions = range(start, min(start + world.size * _RECORDS_AT_ONCE, count), world.size)
            own.extend(threads.map(lambda position: _digest_record(batches, position), positions))
    digests = world.all_gather(own)
    for position in range(count):
        digest.update(digests[position % world.size][position // world.size])
        if with_keys:
            digest.update(batches.dataset.key(position).encode() + b"\0")
    return digest.hexdigest()


def _digest_record(batches: Batches, position: int) -> bytes:
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
