"""Cached features equal computed ones, whatever the batch composition and wherever they are stored."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.data.bad_records import BadRecords
from finetune.data.labels import LabelMap
from finetune.data.loading.batches import Batches, BatchOptions
from finetune.data.loading.dataset import Dataset
from finetune.data.transforms.text import TextTransform
from finetune.errors import DataError
from finetune.features.batches import FeatureBatches
from finetune.features.extractor import FeatureExtractor
from finetune.features.store import StoreLimits
from finetune.models.backbone import Backbone, SplitModel, TextInput
from finetune.models.load import load_backbone
from tests.support.labelled_data import MemoryReader
from tests.support.model_requests import request_model
from tests.support.tiny import TinyBackbone, TinyReader, tiny_batches
from tests.support.tiny_transformers import WORDS, write_folder

# DeBERTa's modules still use torch.jit.script at import.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

CPU = torch.device("cpu")
LIMITS = StoreLimits(10**9)
Row = dict[str, Tensor]


def image_features(
    limits: StoreLimits,
    *,
    split_index: int = 1,
    views: int = 2,
    workers: int = 0,
    concurrency: int = 1,
    balanced: bool = False,
) -> FeatureBatches:
    backbone = TinyBackbone()
    backbone.module.eval()
    extractor = FeatureExtractor(backbone.split(split_index), 4, 1, CPU, contextlib.nullcontext, concurrency)
    return FeatureBatches(
        tiny_batches(TinyReader(23), training=True, batch_size=5, workers=workers, balanced=balanced),
        extractor,
        views,
        limits,
    )


@pytest.fixture(scope="module", params=["bert", "deberta-v2", "gpt2"])
def texts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = write_folder(tmp_path_factory.mktemp("folder"), request.param, labels=("no", "yes"))
    return load_backbone(request_model(None, folder, task="text-classification", channel=folder))


def text_features(backbone: Backbone, limits: StoreLimits, split_index: int, concurrency: int = 1) -> FeatureBatches:
    expects = backbone.expects
    assert isinstance(expects, TextInput)
    reader = MemoryReader([((" ".join(WORDS[4 : 5 + n % 9] * (1 + n % 3)),), ("yes",)) for n in range(23)])
    transform = TextTransform(expects.tokenizer, 30)
    dataset = Dataset(reader, tuple(range(23)), LabelMap(("no", "yes"), multi_label=False), transform)
    options = BatchOptions(5, 0, shuffle=True, augment=False, workers=0, pin_memory=False)
    extractor = FeatureExtractor(backbone.split(split_index), 4, 30, CPU, contextlib.nullcontext, concurrency)
    return FeatureBatches(Batches(dataset, options, BadRecords("train", 0)), extractor, 1, limits)


def epochs(batches: FeatureBatches, count: int = 4, first: int = 0) -> list[tuple[tuple[int, ...], Row]]:
    return [
        (b.positions, b.inputs) for epoch in range(count) for b in batches.iterate(epoch, first if not epoch else 0)
    ]


def assert_same(results: list[tuple[tuple[int, ...], Row]], expected: list[tuple[tuple[int, ...], Row]]) -> None:
    assert [positions for positions, _ in results] == [positions for positions, _ in expected]
    for (_, actual), (_, expected_row) in zip(results, expected, strict=True):
        assert actual.keys() == expected_row.keys()
        assert all(torch.equal(actual[name], expected_row[name]) for name in actual)
        assert all(actual[name].stride() == expected_row[name].stride() for name in actual)


@pytest.mark.parametrize("split_index", [1, 2])
@pytest.mark.parametrize("limits", [StoreLimits(0), StoreLimits(7000), StoreLimits(100)])
def test_image_features_do_not_depend_on_cache_size(split_index: int, limits: StoreLimits) -> None:
    assert_same(
        epochs(image_features(limits, split_index=split_index, workers=2)),
        epochs(image_features(LIMITS, split_index=split_index)),
    )


def test_features_of_records_drawn_several_times_do_not_depend_on_cache_size() -> None:
    expected = epochs(image_features(LIMITS, balanced=True))
    assert any(len(set(positions)) < len(positions) for positions, _ in expected)
    for limits in (StoreLimits(0), StoreLimits(7000)):
        assert_same(epochs(image_features(limits, balanced=True)), expected)


def test_features_in_files_are_identical_and_files_are_removed(tmp_path: Path) -> None:
    assert_same(epochs(image_features(StoreLimits(0, 10**6, tmp_path))), epochs(image_features(LIMITS)))
    assert list(tmp_path.iterdir()) == []


def test_resumed_epoch_is_identical() -> None:
    assert_same(epochs(image_features(LIMITS), first=3), epochs(image_features(LIMITS))[3:])


@pytest.mark.parametrize("concurrency", [2, 3])
@pytest.mark.parametrize("limits", [LIMITS, StoreLimits(0), StoreLimits(7000)])
def test_features_do_not_depend_on_the_number_of_threads(limits: StoreLimits, concurrency: int) -> None:
    assert_same(epochs(image_features(limits, concurrency=concurrency, workers=2)), epochs(image_features(LIMITS)))


def test_chunks_run_in_parallel_and_errors_are_raised() -> None:
    barrier = threading.Barrier(3)
    seen: set[str] = set()

    def prefix(inputs: Row) -> Row:
        # Raises an error unless three records are in the batch.
        barrier.wait(30)
        seen.add(threading.current_thread().name)
        assert torch.get_num_threads() == 1
        if inputs["pixels"].max() == 11:
            raise RuntimeError("out of memory")
        return inputs

    extractor = FeatureExtractor(
        cast("SplitModel", SimpleNamespace(prefix=prefix)), 2, 1, CPU, contextlib.nullcontext, 3
    )
    pixels = torch.arange(12).view(12, 1)
    threads = torch.get_num_threads()
    results: list[int] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        for rows, features in extractor.compute_rows({"pixels": pixels}, 12):
            assert rows.tolist() == features["pixels"].flatten().tolist()
            results += rows.tolist()
    assert results == list(range(10))
    assert seen == {f"frozen-prefix-{number}" for number in range(3)}
    assert torch.get_num_threads() == threads


def test_epochs_cycle_through_views() -> None:
    batches = image_features(LIMITS)
    by_epoch = [
        {p: row for b in batches.iterate(e) for p, row in zip(b.positions, b.inputs["activation"], strict=True)}
        for e in range(3)
    ]
    assert all(torch.equal(by_epoch[0][p], by_epoch[2][p]) for p in by_epoch[0])
    assert not any(torch.equal(by_epoch[0][p], by_epoch[1][p]) for p in by_epoch[0])


def test_text_features_do_not_depend_on_cache_size(texts: Backbone) -> None:
    for split_index in range(1, len(texts.layer_groups())):
        expected = epochs(text_features(texts, LIMITS, split_index))
        for memory_bytes in (0, 3000):
            assert_same(epochs(text_features(texts, StoreLimits(memory_bytes), split_index)), expected)


def test_text_features_do_not_depend_on_the_number_of_threads(texts: Backbone) -> None:
    assert_same(epochs(text_features(texts, LIMITS, 1, concurrency=3)), epochs(text_features(texts, LIMITS, 1)))


def test_logits_of_text_features_equal_those_of_texts(texts: Backbone) -> None:
    for split_index in range(1, len(texts.layer_groups())):
        batches = text_features(texts, LIMITS, split_index)
        records = batches._batches.iterate(0)
        for features, texts_of_batch in zip(batches.iterate(0), records, strict=True):
            with torch.no_grad():
                logits = texts.split(split_index).suffix(features.inputs).logits
                expected = texts.forward(texts_of_batch.inputs).logits
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
            assert torch.equal(features.targets, texts_of_batch.targets)


def test_texts_without_padding_are_batched_separately() -> None:
    """transformers uses other kernels if no text of a batch is padded."""
    lengths = torch.tensor([16, 15, 16, 3, 30, 29, 30, 17, 16])
    mask = (torch.arange(30) < lengths.unsqueeze(1)).long()
    widths: list[tuple[int, bool]] = []

    def prefix(inputs: Row) -> Row:
        full = inputs["attention_mask"].bool().all(dim=1).tolist()
        assert len(set(full)) == 1
        widths.append((inputs["attention_mask"].shape[1], full[0]))
        return inputs

    extractor = FeatureExtractor(cast("SplitModel", SimpleNamespace(prefix=prefix)), 4, 30, CPU, contextlib.nullcontext)
    results = [row for rows, _ in extractor.compute_rows({"attention_mask": mask}, len(mask)) for row in rows.tolist()]
    assert sorted(results) == list(range(len(mask)))
    assert widths == [(16, False), (16, True), (30, False), (30, True)]


class PartlyDamaged(TinyReader):
    """Every fifth record is unreadable."""

    def read(self, index: int) -> object:  # type: ignore[override]
        if index % 5 == 0:
            raise DataError(f"channel 'train': {self.key(index)} is gone")
        return super().read(index)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_bad_records_are_skipped_and_noted_once(concurrency: int) -> None:
    backbone = TinyBackbone()
    backbone.module.eval()
    extractor = FeatureExtractor(backbone.split(1), 4, 1, CPU, contextlib.nullcontext, concurrency)
    plain = tiny_batches(TinyReader(23), training=True, batch_size=5)
    bad = BadRecords("train", 5)
    damaged = Dataset(PartlyDamaged(23), plain.dataset.indices, plain.dataset.label_map, plain.dataset.transform)  # type: ignore[arg-type]
    options = BatchOptions(5, 0, shuffle=True, augment=True, workers=0, pin_memory=False)
    batches = FeatureBatches(Batches(damaged, options, bad), extractor, 1, LIMITS)
    results = epochs(batches, 2)
    assert sorted(p for positions, _ in results for p in positions) == sorted([p for p in range(23) if p % 5] * 2)
    assert all(len(row["activation"]) == len(positions) for positions, row in results)
    assert len(bad) == 5


def test_used_bytes_of_the_store() -> None:
    batches = image_features(LIMITS, split_index=2, views=1)
    epochs(batches, 1)
    assert batches.store.used_bytes == 23 * 6 * 4
    assert batches.store.is_cached(np.arange(23)).all()
