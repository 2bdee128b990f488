"""Produces the bytes that the platform sends through a pipe in one epoch.

Objects are sent in the order of their keys or of a manifest, without separators, names or sizes.
Sources: "How Amazon SageMaker AI Provides Training Information" and "Augmented Manifest Files for Training Jobs" in the
developer guide; `S3DataSource` and `ShuffleConfig` in the API reference.
"""

from __future__ import annotations

import gzip
import json
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

DataType = Literal["S3Prefix", "ManifestFile", "AugmentedManifestFile"]

_MAGIC = struct.pack("<I", 0xCED7230A)
_CHUNK_BYTES = 1 << 20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PipeSource:
    """Content that a channel in Pipe mode sends.

    Attributes:
        data_type: `S3DataType` of the request.
        attributes: `AttributeNames` of an augmented manifest.
        wrapped: Whether `RecordWrapperType` is `RecordIO`.
        inflated: Whether `CompressionType` is `Gzip`.
        shuffle_seed: Seed of `ShuffleConfig`; `None` keeps the order.
        shard: This host's number and the number of hosts, for `ShardedByS3Key`.
    """

    data_type: DataType = "S3Prefix"
    attributes: tuple[str, ...] = ()
    wrapped: bool = False
    inflated: bool = False
    shuffle_seed: int | None = None
    shard: tuple[int, int] = (0, 1)


def epoch_bytes(source: Path, options: PipeSource, epoch: int) -> Iterator[bytes]:
    """Yield the bytes of one epoch in chunks.

    Args:
        source: A folder representing an S3 prefix, or a file: the only object or the manifest.
        options: Content to send.
        epoch: Epoch from 0.
    """
    if options.data_type == "AugmentedManifestFile":
        lines = [line for line in source.read_text(encoding="utf-8").split("\n") if line.strip()]
        for line in _ordered_shard(lines, options, epoch):
            yield from _read_attributes(json.loads(line), source.parent, options)
        return
    for path in _ordered_shard(list_objects(source, options), options, epoch):
        yield from _read_object(path, options)


def list_objects(source: Path, options: PipeSource) -> list[Path]:
    """Return the objects of a prefix or of a manifest, in order."""
    if options.data_type == "ManifestFile":
        first, *names = json.loads(source.read_text(encoding="utf-8"))
        return [object_path(first["prefix"] + name, source.parent) for name in names]
    if source.is_file():
        return [source]
    keys = sorted(path.relative_to(source).as_posix().encode() for path in source.rglob("*") if path.is_file())
    return [source / key.decode() for key in keys]


def shard_objects(source: Path, shard: tuple[int, int]) -> list[Path]:
    """Return the objects of a prefix that one host receives with `ShardedByS3Key`.

    The API reference promises each of n hosts "approximately 1/n of the number of S3 objects" without naming the rule;
    the simulator deals them in the order of their keys.

    Args:
        source: A folder representing an S3 prefix, or a file: the only object.
        shard: The host's number and the number of hosts.
    """
    number, count = shard
    return list_objects(source, PipeSource())[number::count]


def _ordered_shard(items: Sequence[_T], options: PipeSource, epoch: int) -> list[_T]:
    """Return this host's items in the order of this epoch; shuffling also moves items between hosts."""
    ordered = list(items)
    if options.shuffle_seed is not None:
        random.Random(f"{options.shuffle_seed}/{epoch}").shuffle(ordered)  # noqa: S311 - an order, not a secret
    host, hosts = options.shard
    return ordered[host::hosts]


def _read_object(path: Path, options: PipeSource) -> Iterator[bytes]:
    if options.wrapped:
        yield _recordio_record(_object_content(path, options))
        return
    with gzip.open(path) if options.inflated else path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _object_content(path: Path, options: PipeSource) -> bytes:
    return gzip.decompress(path.read_bytes()) if options.inflated else path.read_bytes()


def _read_attributes(line: dict[str, object], folder: Path, options: PipeSource) -> Iterator[bytes]:
    for name in options.attributes:
        value = line[name]
        if name.endswith("-ref"):
            content = _object_content(object_path(str(value), folder), options)
        else:
            content = (value if isinstance(value, str) else json.dumps(value)).encode()
        yield _recordio_record(content) if options.wrapped else content


def object_path(uri: str, folder: Path) -> Path:
    """Return the file in `folder` that represents an object: its key without the bucket, or an unchanged path."""
    key = uri.partition("://")[2].partition("/")[2] if "://" in uri else uri
    return folder / key


def _recordio_record(payload: bytes) -> bytes:
    return _MAGIC + struct.pack("<I", len(payload)) + payload + bytes(-len(payload) % 4)
