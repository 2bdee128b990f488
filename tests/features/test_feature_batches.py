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
from finetune.features.extractor import FeatureExtractor, rows_of
from finetune.features.store import StoreLimits
from finetune.models.backbone import Backbone, SplitModel, TextInput
from finetune.models.load import load_backbone
from tests.support.labelled_data import MemoryReader
from tests.support.model_requests import ask
from tests.support.tiny import TinyBackbone, TinyReader, tiny_batches
from tests.support.tiny_transformers import WORDS, write_folder

# DeBERTa's modules still use torch.jit.script at import.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

CPU = torch.device("cpu")
ROOM = StoreLimits(10**9)
Row = dict[str, Tensor]


def pictures(
    place: StoreLimits, *, border: int = 1, views: int = 2, workers: int = 0, at_once: int = 1
) -> FeatureBatches:
    backbone = TinyBackbone()
    backbone.module.eval()
    run = FeatureExtractor(backbone.split(border), 4, 1, CPU, contextlib.nullcontext, at_once)
    return FeatureBatches(tiny_batches(TinyReader(23), training=True, batch_size=5, workers=workers), run, views, place)


@pytest.fixture(scope="module", params=["bert", "deberta-v2", "gpt2"])
def texts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = write_folder(tmp_path_factory.mktemp("folder"), request.param, labels=("no", "yes"))
    return load_backbone(ask(None, folder, task="text-classification", channel=folder))


def text_features(backbone: Backbone, place: StoreLimits, border: int, at_once: int = 1) -> FeatureBatches:
    expects = backbone.expects
    assert isinstance(expects, TextInput)
    reader = MemoryReader([((" ".join(WORDS[4 : 5 + n % 9] * (1 + n % 3)),), ("yes",)) for n in range(23)])
    transform = TextTransform(expects.tokenizer, 30)
    dataset = Dataset(reader, tuple(range(23)), LabelMap(("no", "yes"), multi_label=False), transform)
    options = BatchOptions(5, 0, shuffle=True, augment=False, workers=0, pin_memory=False)
    run = FeatureExtractor(backbone.split(border), 4, 30, CPU, contextlib.nullcontext, at_once)
    return FeatureBatches(Batches(dataset, options, BadRecords("train", 0)), run, 1, place)


def epochs(batches: FeatureBatches, count: int = 4, first: int = 0) -> list[tuple[tuple[int, ...], Row]]:
    return [
        (b.positions, b.inputs) for epoch in range(count) for b in batches.iterate(epoch, first if not epoch else 0)
    ]


def assert_same(found: list[tuple[tuple[int, ...], Row]], expected: list[tuple[tuple[int, ...], Row]]) -> None:
    assert [positions for positions, _ in found] == [positions for positions, _ in expected]
    for (_, ours), (_, theirs) in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert all(ours[name].stride() == theirs[name].stride() for name in ours)


@pytest.mark.parametrize("border", [1, 2])
@pytest.mark.parametrize("place", [StoreLimits(0), StoreLimits(7000), StoreLimits(100)])
def test_room_changes_no_bit_of_pictures(border: int, place: StoreLimits) -> None:
    assert_same(epochs(pictures(place, border=border, workers=2)), epochs(pictures(ROOM, border=border)))


def test_a_file_changes_no_bit_and_leaves_nothing_behind(tmp_path: Path) -> None:
    assert_same(epochs(pictures(StoreLimits(0, 10**6, tmp_path))), epochs(pictures(ROOM)))
    assert list(tmp_path.iterdir()) == []


def test_where_an_epoch_is_taken_up_changes_no_bit() -> None:
    assert_same(epochs(pictures(ROOM), first=3), epochs(pictures(ROOM))[3:])


@pytest.mark.parametrize("at_once", [2, 3])
@pytest.mark.parametrize("place", [ROOM, StoreLimits(0), StoreLimits(7000)])
def test_how_many_cores_compute_changes_no_bit(place: StoreLimits, at_once: int) -> None:
    assert_same(epochs(pictures(place, at_once=at_once, workers=2)), epochs(pictures(ROOM)))


def test_each_core_has_a_chunk_of_its_own_and_what_fails_there_is_raised() -> None:
    together = threading.Barrier(3)
    seen: set[str] = set()

    def front(inputs: Row) -> Row:
        # Raises an error unless three records are in the batch.
        together.wait(30)
        seen.add(threading.current_thread().name)
        assert torch.get_num_threads() == 1
        if inputs["pixels"].max() == 11:
            raise RuntimeError("out of memory")
        return inputs

    run = FeatureExtractor(cast("SplitModel", SimpleNamespace(prefix=front)), 2, 1, CPU, contextlib.nullcontext, 3)
    pixels = torch.arange(12).view(12, 1)
    own = torch.get_num_threads()
    found: list[int] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        for rows, features in rows_of(run, {"pixels": pixels}, 12):
            assert rows.tolist() == features["pixels"].flatten().tolist()
            found += rows.tolist()
    assert found == list(range(10))
    assert seen == {"front-0", "front-1", "front-2"}
    assert torch.get_num_threads() == own


def test_epochs_take_turns_with_views() -> None:
    batches = pictures(ROOM)
    by_epoch = [
        {p: row for b in batches.iterate(e) for p, row in zip(b.positions, b.inputs["activation"], strict=True)}
        for e in range(3)
    ]
    assert all(torch.equal(by_epoch[0][p], by_epoch[2][p]) for p in by_epoch[0])
    assert not any(torch.equal(by_epoch[0][p], by_epoch[1][p]) for p in by_epoch[0])


def test_room_changes_no_bit_of_texts(texts: Backbone) -> None:
    for border in range(1, len(texts.layer_groups())):
        expected = epochs(text_features(texts, ROOM, border))
        for room in (0, 3000):
            assert_same(epochs(text_features(texts, StoreLimits(room), border)), expected)


def test_how_many_cores_compute_changes_no_bit_of_texts(texts: Backbone) -> None:
    assert_same(epochs(text_features(texts, ROOM, 1, at_once=3)), epochs(text_features(texts, ROOM, 1)))


def test_features_of_texts_give_the_logits_of_the_texts(texts: Backbone) -> None:
    for border in range(1, len(texts.layer_groups())):
        batches = text_features(texts, ROOM, border)
        records = batches._batches.iterate(0)
        for features, texts_of_batch in zip(batches.iterate(0), records, strict=True):
            with torch.no_grad():
                logits = texts.split(border).suffix(features.inputs).logits
                expected = texts.forward(texts_of_batch.inputs).logits
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
            assert torch.equal(features.targets, texts_of_batch.targets)


def test_texts_that_fill_their_length_never_meet_others() -> None:
    """transformers uses other kernels if no text of a batch is padded."""
    lengths = torch.tensor([16, 15, 16, 3, 30, 29, 30, 17, 16])
    mask = (torch.arange(30) < lengths.unsqueeze(1)).long()
    widths: list[tuple[int, bool]] = []

    def front(inputs: Row) -> Row:
        full = inputs["attention_mask"].bool().all(dim=1).tolist()
        assert len(set(full)) == 1
        widths.append((inputs["attention_mask"].shape[1], full[0]))
        return inputs

    run = FeatureExtractor(cast("SplitModel", SimpleNamespace(prefix=front)), 4, 30, CPU, contextlib.nullcontext)
    found = [row for rows, _ in rows_of(run, {"attention_mask": mask}, len(mask)) for row in rows.tolist()]
    assert sorted(found) == list(range(len(mask)))
    assert widths == [(16, False), (16, True), (30, False), (30, True)]


class PartlyDamaged(TinyReader):
    """Every fifth record is unreadable."""

    def read(self, index: int) -> object:  # type: ignore[override]
        if index % 5 == 0:
            raise DataError(f"channel 'train': {self.key(index)} is gone")
        return super().read(index)


@pytest.mark.parametrize("at_once", [1, 3])
def test_bad_records_have_no_row_and_are_noted_once(at_once: int) -> None:
    backbone = TinyBackbone()
    backbone.module.eval()
    run = FeatureExtractor(backbone.split(1), 4, 1, CPU, contextlib.nullcontext, at_once)
    plain = tiny_batches(TinyReader(23), training=True, batch_size=5)
    bad = BadRecords("train", 5)
    damaged = Dataset(PartlyDamaged(23), plain.dataset.indices, plain.dataset.label_map, plain.dataset.transform)  # type: ignore[arg-type]
    options = BatchOptions(5, 0, shuffle=True, augment=True, workers=0, pin_memory=False)
    batches = FeatureBatches(Batches(damaged, options, bad), run, 1, ROOM)
    found = epochs(batches, 2)
    assert sorted(p for positions, _ in found for p in positions) == sorted([p for p in range(23) if p % 5] * 2)
    assert all(len(row["activation"]) == len(positions) for positions, row in found)
    assert len(bad) == 5


def test_kept_bytes_are_told() -> None:
    batches = pictures(ROOM, border=2, views=1)
    epochs(batches, 1)
    assert batches.storage.used_bytes == 23 * 6 * 4
    assert batches.storage.kept(np.arange(23)).all()
