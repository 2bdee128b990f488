"""Splits the training channel into training and validation records if there is no validation channel."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

from finetune.data.readers.channel_files import some_of
from finetune.data.record import Content, Reader
from finetune.errors import DataError

_log = logging.getLogger(__name__)

_CHUNK_SIZE = 256

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Partition of a channel into training and validation records.

    Attributes:
        train: reader indices, ascending.
        validation: reader indices, ascending.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]


def stratified_split(reader: Reader, fraction: float, seed: int) -> Split:
    """Hold out a fraction of each class for validation, depending only on contents, labels and seed.

    File names and order do not matter, so the same data is split identically however it is stored. Contents are ranked
    by a hash of seed and content; of each class, the first `fraction` of its distinct contents are held out (rounded,
    at least one, leaving at least one). Records of equal content stay together. The following stay in training: the
    only content of a class, contents that occur with different labels, and unreadable records. For multi-label records,
    each label combination counts as a class; combinations too rare for a share of their own are sampled jointly, as
    long as each class keeps a content in training.

    Args:
        reader: reader of the training channel; every record is read once, by several threads.
        fraction: fraction to hold out, in [0, 1); 0 holds out nothing.
        seed: any integer.

    Raises:
        DataError: no class has two distinct contents of its own.
    """
    if fraction <= 0:
        return Split(tuple(range(len(reader))), ())
    digests = content_digests(reader, range(len(reader)))
    strata = _strata(reader, digests)
    held_out = _select(strata, fraction, seed)
    if not held_out:
        raise DataError(
            f"channel {reader.channel!r}: cannot hold out validation records, because no class has two different "
            "records of its own; add records, provide a 'validation' channel, or set validation_fraction=0"
        )
    unsplit = sorted(labels[0] for labels, contents in strata.items() if len(contents) == 1 and len(labels) == 1)
    if unsplit:
        _log.info(
            "channel %r: classes with a single record have none for validation: %s", reader.channel, some_of(unsplit)
        )
    train = tuple(index for index, digest in enumerate(digests) if digest not in held_out)
    validation = tuple(index for index, digest in enumerate(digests) if digest in held_out)
    return Split(train, validation)


def content_digests(reader: Reader, indices: Sequence[int]) -> list[bytes | None]:
    """Return a 32-byte digest of the content of each record; `None` if it cannot be read."""
    chunks = [indices[start : start + _CHUNK_SIZE] for start in range(0, len(indices), _CHUNK_SIZE)]
    # Reading is I/O-bound and hashing releases the GIL, so more threads than cores are faster.
    with ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as threads:
        return list(chain.from_iterable(threads.map(lambda chunk: [_digest(reader, index) for index in chunk], chunks)))


def _digest(reader: Reader, index: int) -> bytes | None:
    try:
        content = reader.read(index).content
    except DataError:
        return None
    return blake2b(_serialized(content), digest_size=32).digest()


def _serialized(content: Content) -> bytes:
    if isinstance(content, bytes):
        return content
    encoded = [text.encode() for text in content]
    return b"".join(len(text).to_bytes(8, "big") + text for text in encoded)


def _strata(reader: Reader, digests: Sequence[bytes | None]) -> Mapping[Labels, set[bytes]]:
    """Group distinct contents by label combination, without contents whose labels conflict."""
    labels_of: dict[bytes, set[Labels]] = defaultdict(set)
    for index, digest in enumerate(digests):
        if digest is not None:
            labels_of[digest].add(tuple(sorted(reader.labels(index))))
    strata: dict[Labels, set[bytes]] = defaultdict(set)
    conflicts = 0
    for digest, labels in labels_of.items():
        if len(labels) == 1:
            strata[next(iter(labels))].add(digest)
        else:
            conflicts += 1
    if conflicts:
        _log.warning(
            "channel %r: %d distinct contents have conflicting labels; they stay in training", reader.channel, conflicts
        )
    return strata


def _select(strata: Mapping[Labels, set[bytes]], fraction: float, seed: int) -> set[bytes]:
    """Select a fraction of every stratum; combinations too rare for a share of their own are sampled jointly."""
    held_out: set[bytes] = set()
    rare: set[bytes] = set()
    for labels, contents in strata.items():
        if len(labels) != 1 and len(contents) * fraction < 1:
            rare.update(contents)
        elif len(contents) >= 2:
            held_out.update(_rank(contents, seed)[: _held_out_count(len(contents), fraction)])
    if len(rare) >= 2:
        labels_of = {digest: labels for labels, contents in strata.items() for digest in contents - held_out}
        held_out.update(_sample_jointly(_rank(rare, seed), labels_of, _held_out_count(len(rare), fraction)))
    return held_out


def _sample_jointly(ranked: Sequence[bytes], labels_of: Mapping[bytes, Labels], count: int) -> list[bytes]:
    """Select up to `count` contents in order, skipping those that would leave a class without training content."""
    training_counts = Counter(label for labels in labels_of.values() for label in labels)
    sampled: list[bytes] = []
    for digest in ranked:
        labels = labels_of[digest]
        if len(sampled) < count and all(training_counts[label] >= 2 for label in labels):
            sampled.append(digest)
            training_counts.subtract(labels)
    return sampled


def _held_out_count(count: int, fraction: float) -> int:
    return min(max(int(count * fraction + 0.5), 1), count - 1)


def _rank(contents: set[bytes], seed: int) -> list[bytes]:
    prefix = f"{seed}:".encode()
    return sorted(contents, key=lambda digest: blake2b(prefix + digest).digest())
