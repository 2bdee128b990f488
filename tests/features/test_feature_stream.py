"""Features of a stream are bitwise identical with any cache, computed once if they fit, and used in order."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.config.parse import parse_hyperparameters
from finetune.data.bad_records import BadRecords
from finetune.data.formats.codec import StreamLayout
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.labels import LabelMap
from finetune.data.loading.batches import Batch, BatchOptions
from finetune.data.loading.shares import WHOLE_BATCHES, Share
from finetune.data.pipe.batch_shares import StreamSharing
from finetune.data.pipe.batches import StreamBatches, StreamData
from finetune.data.pipe.fifo import PipeOptions
from finetune.data.pipe.source import StreamSource
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import ImageGeometry
from finetune.features.extractor import FeatureExtractor
from finetune.features.store import StoreLimits
from finetune.features.stream import FeatureStream
from finetune.models.backbone import Outputs, SplitModel
from tests.support.coloured_images import COLORS, encode_image, make_image
from tests.support.stream_writers import fill, recordio
from tests.support.tiny import SIDE, TinyBackbone

NAMES = tuple(COLORS)
CPU = torch.device("cpu")
COUNT = 23
LIMITS = StoreLimits(10**9)


def stream_of(*, damaged: frozenset[int] = frozenset(), alike: int = 0) -> bytes:
    """Image records; the first `alike` have the same content, and the damaged ones none."""
    records = []
    for number in range(COUNT):
        content = (
            b"no image"
            if number in damaged
            else encode_image(make_image(NAMES[number % 3], 0 if number < alike else number))
        )
        records.append(recordio(struct.pack("<IfQQ", 0, number % 3, 0 if number < alike else number, 0) + content))
    return b"".join(records)


def batches(
    folder: Path,
    stream: bytes,
    epochs: int,
    *,
    augment: bool,
    allowed: int = 0,
    sharing: StreamSharing | None = None,
    stop: threading.Event | None = None,
) -> StreamBatches:
    if stream:
        folder.mkdir()
        fill(folder, stream, epochs)
    limits = PipeOptions("train", folder, folder / "state", 60.0, stop.is_set if stop else lambda: False)
    decode_options = DecodeOptions("image-classification", parse_hyperparameters({}).data)
    source = StreamSource(limits, StreamLayout("train", "recordio"), decode_options)
    transform = ImageTransform(ImageGeometry(SIDE, SIDE, "bilinear"), "basic")
    data = StreamData(source, LabelMap(NAMES, multi_label=False), transform, COUNT, None, buffer=5)
    options = BatchOptions(4, seed=3, shuffle=True, augment=augment, workers=2, pin_memory=False)
    return StreamBatches(data, options, BadRecords("train", allowed), sharing)


class CountingSplit:
    """A split that records the images that pass through its prefix, without the copies that fill up a chunk."""

    padding: Mapping[str, float]

    def __init__(self) -> None:
        backbone = TinyBackbone()
        backbone.module.eval()
        self._split = backbone.split(2)
        self.padding = self._split.padding
        self.seen: Counter[bytes] = Counter()

    def prefix(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.seen.update({batch.numpy().tobytes() for batch in inputs["pixels"]})
        return self._split.prefix(inputs)

    def suffix(self, features: Mapping[str, Tensor]) -> Outputs:
        return self._split.suffix(features)

    def fold_batchnorms(self, dtype: torch.dtype | None) -> SplitModel:
        raise NotImplementedError


def features(
    folder: Path,
    limits: StoreLimits,
    *,
    views: int = 1,
    count: int = COUNT,
    augment: bool = False,
    stream: bytes | None = None,
    concurrency: int = 1,
    sharing: StreamSharing | None = None,
    stop: threading.Event | None = None,
) -> tuple[FeatureStream, StreamBatches, CountingSplit]:
    split = CountingSplit()
    extractor = FeatureExtractor(split, 6, 1, CPU, contextlib.nullcontext, concurrency)
    content = stream_of() if stream is None else stream
    source = batches(folder, content, 5, augment=augment, allowed=9, sharing=sharing, stop=stop)
    return FeatureStream(source, extractor, views, limits, count), source, split


def epochs(source: FeatureStream, count: int = 3, share: Share = WHOLE_BATCHES) -> Iterator[tuple[int, Batch]]:
    return ((epoch, batch) for epoch in range(count) for batch in source.iterate(epoch, 0, share))


def bits(
    source: FeatureStream, share: Share = WHOLE_BATCHES, count: int = 3
) -> list[tuple[int, bytes, list[int], tuple[int, ...]]]:
    return [
        (epoch, batch.inputs["activation"].detach().numpy().tobytes(), batch.targets.tolist(), batch.positions)
        for epoch, batch in epochs(source, count, share)
    ]


@pytest.mark.parametrize(
    ("limits", "count"), [(StoreLimits(0), COUNT), (StoreLimits(200), COUNT), (LIMITS, 0), (LIMITS, 9)], ids=str
)
def test_features_do_not_depend_on_cache_size(tmp_path: Path, limits: StoreLimits, count: int) -> None:
    expected = bits(features(tmp_path / "whole", LIMITS, views=2, augment=True)[0])
    assert bits(features(tmp_path / "less", limits, views=2, augment=True, count=2 * count)[0]) == expected


@pytest.mark.parametrize("limits", [LIMITS, StoreLimits(200), StoreLimits(0)])
def test_features_do_not_depend_on_the_number_of_threads(tmp_path: Path, limits: StoreLimits) -> None:
    expected = bits(features(tmp_path / "one", LIMITS, views=2, augment=True)[0])
    assert bits(features(tmp_path / "three", limits, views=2, augment=True, concurrency=3)[0]) == expected


def test_features_are_computed_once(tmp_path: Path) -> None:
    source, _, split = features(tmp_path / "pipes", LIMITS)
    assert len(bits(source)) == 3 * 6
    assert set(split.seen.values()) == {1}
    assert len(split.seen) == COUNT


def test_features_of_each_view_are_computed_once(tmp_path: Path) -> None:
    source, _, split = features(tmp_path / "pipes", LIMITS, views=2, augment=True)
    rows: list[dict[int, Tensor]] = [{}, {}, {}]
    for epoch, batch in epochs(source):
        rows[epoch] |= dict(zip(batch.positions, batch.inputs["activation"], strict=True))
    assert sum(split.seen.values()) == 2 * COUNT
    assert all(torch.equal(rows[0][number], rows[2][number]) for number in range(COUNT))
    assert not any(torch.equal(rows[0][number], rows[1][number]) for number in range(COUNT))


def test_features_belong_to_the_records(tmp_path: Path) -> None:
    source, _, _ = features(tmp_path / "features", LIMITS)
    backbone = TinyBackbone()
    backbone.module.eval()
    with torch.no_grad(), closing(batches(tmp_path / "plain", stream_of(), 1, augment=False).iterate(0)) as plain:
        for feature_batch, batch in zip(source.iterate(0), plain, strict=True):
            assert feature_batch.positions == batch.positions
            assert torch.equal(feature_batch.targets, batch.targets)
            logits = backbone.split(2).suffix(feature_batch.inputs).logits
            torch.testing.assert_close(logits, backbone.forward(batch.inputs).logits)


def test_position_advances_with_each_batch(tmp_path: Path) -> None:
    """However many batches were prefetched for the frozen prefix, so that a checkpoint has the trained position."""
    source, stream, _ = features(tmp_path / "pipes", LIMITS)
    used = []
    with closing(source.iterate(0)) as iterator:
        for batch in iterator:
            used.append(len(batch.positions))
            assert stream.position.used == sum(used)
            assert not stream.position.ended
    assert stream.position.ended


def test_remaining_batches_after_a_restart_are_identical(tmp_path: Path) -> None:
    source, stream, _ = features(tmp_path / "whole", LIMITS)
    before, states = [], []
    for batch in source.iterate(0):
        before.append(batch)
        state = stream.position.state_dict()
        states.append(state | {"identities": state["identities"].clone()})
    for used in range(1, len(before)):
        again, other, _ = features(tmp_path / f"again-{used}", LIMITS)
        other.position.load_state_dict(states[used - 1])
        rest = list(again.iterate(0, used))
        assert [batch.positions for batch in rest] == [batch.positions for batch in before[used:]]
        for batch, expected in zip(rest, before[used:], strict=True):
            assert torch.equal(batch.inputs["activation"], expected.inputs["activation"])


def test_bad_records_are_skipped_and_equal_contents_computed_once(tmp_path: Path) -> None:
    stream = stream_of(damaged=frozenset({20, 21}), alike=5)
    source, _, split = features(tmp_path / "pipes", LIMITS, stream=stream)
    results = bits(source)
    assert sorted(p for epoch, _, _, positions in results if epoch == 1 for p in positions) == [
        number for number in range(COUNT) if number not in (20, 21)
    ]
    assert all(len(targets) == len(positions) for *_, targets, positions in results)
    assert set(split.seen.values()) == {1}
