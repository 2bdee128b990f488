"""Cached images equal freshly decoded ones, and each is decoded once."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.config.hyperparameters import Augmentation, TaskName
from finetune.data.bad_records import BadRecords
from finetune.data.labels import LabelMap
from finetune.data.loading.batches import Batch, Batches, BatchOptions
from finetune.data.loading.byte_arena import ByteArena
from finetune.data.loading.dataset import Dataset
from finetune.data.loading.image_cache import DecodedImageCache
from finetune.data.loading.image_storage import PrivateImages
from finetune.data.record import Record
from finetune.data.transforms.augmentation import augmentation_source_bytes, downscale_for_augmentation
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import ImageGeometry

GEOMETRY = ImageGeometry(24, 28, "bilinear")
COUNT = 13


def encoded(number: int) -> bytes:
    noise = np.random.Generator(np.random.PCG64(number)).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    kind = "JPEG" if number % 2 else "PNG"
    Image.fromarray(noise).resize((30 + 9 * number, 50)).save(file, kind)
    return file.getvalue()


@dataclass
class CountingReader:
    """Counts the reads of each image; the second to last is damaged."""

    channel: str = "train"
    task: TaskName = "image-classification"
    left_out: tuple[tuple[str, str], ...] = ()
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return COUNT

    def key(self, index: int) -> str:
        return str(index)

    def labels(self, index: int) -> tuple[str, ...]:
        return ("a",)

    def clue(self, index: int) -> int:
        return 0

    def read(self, index: int) -> Record:
        self.reads.append(index)
        return Record(self.key(index), b"no picture" if index == COUNT - 2 else encoded(index), ("a",))


def batches(
    arena: ByteArena | None, augmentation: Augmentation = "strong", workers: int = 0
) -> tuple[Batches, CountingReader]:
    transform, reader = ImageTransform(GEOMETRY, augmentation), CountingReader()
    dataset = Dataset(reader, tuple(range(COUNT)), LabelMap(("a",), multi_label=False), transform)
    options = BatchOptions(4, 3, shuffle=True, augment=augmentation != "none", workers=workers, pin_memory=False)
    plain = Batches(dataset, options, BadRecords("train", 1))
    return (
        plain if arena is None else plain.with_examples(DecodedImageCache(transform, PrivateImages(arena), "training"))
    ), reader


def three_epochs(batches: Batches) -> list[Batch]:
    return [batch for epoch in (0, 1, 0) for batch in batches.iterate(epoch)]


@pytest.mark.parametrize("augmentation", ["none", "basic", "strong"])
@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("arena", [(0, 0), (20_000, 0), (0, 30_000), (10**7, 0)])
def test_cached_images_are_bitwise_identical(
    augmentation: Augmentation, workers: int, arena: tuple[int, int], tmp_path: Path
) -> None:
    cached = three_epochs(batches(ByteArena(*arena, tmp_path), augmentation, workers)[0])
    uncached = three_epochs(batches(None, augmentation)[0])
    assert [batch.positions for batch in cached] == [batch.positions for batch in uncached]
    for batch, expected in zip(cached, uncached, strict=True):
        assert torch.equal(batch.inputs["pixels"], expected.inputs["pixels"])
        assert batch.inputs["pixels"].stride() == expected.inputs["pixels"].stride()
        assert torch.equal(batch.targets, expected.targets)


def test_cached_image_is_read_once_and_damaged_image_every_time() -> None:
    cached, reader = batches(ByteArena(10**7))
    three_epochs(cached)
    assert sorted(reader.reads) == sorted([*range(COUNT), COUNT - 2, COUNT - 2])


def test_full_cache_keeps_the_images_that_fit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cached, reader = batches(ByteArena(20_000))
    three_epochs(cached)
    assert COUNT < len(reader.reads) < 3 * COUNT
    assert caplog.text.count("the cache is full") == 1


def test_large_image_is_reduced_before_caching() -> None:
    pixels = torch.arange(3 * 200 * 150, dtype=torch.int64).remainder(256).to(torch.uint8).view(3, 200, 150)
    assert downscale_for_augmentation(pixels, GEOMETRY).shape == (3, 54, 41)
    assert augmentation_source_bytes(GEOMETRY) == 3 * 41 * 55
    small = pixels[:, :41]
    assert downscale_for_augmentation(small, GEOMETRY) is small


def test_augmentation_does_not_change_the_cached_image() -> None:
    transform = ImageTransform(GEOMETRY, "strong")
    image = transform.decode(encoded(3), augmented=True)
    before = image.clone()
    for seed in range(60):
        transform.finish(image, random.Random(seed))["pixels"].fill_(0)
    assert torch.equal(image, before)
