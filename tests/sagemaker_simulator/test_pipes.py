"""Simulated pipes send the data of the platform and tolerate all reader behavior."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sagemaker_simulator import FeederOptions, PipeFeeder, PipeSource
from sagemaker_simulator.object_stream import epoch_bytes
from tests.support.simulated_jobs import eventually

RECORD = b"\x0a\x23\xd7\xce"


def read_stream(source: Path, options: PipeSource, epoch: int = 0) -> bytes:
    return b"".join(epoch_bytes(source, options, epoch))


def write_objects(folder: Path) -> Path:
    for key, content in {"b.txt": "B", "a/z.txt": "Z", "a.txt": "A", "c.txt": "C"}.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_text(content)
    return folder


def test_objects_are_sent_in_key_order(tmp_path: Path) -> None:
    assert read_stream(write_objects(tmp_path), PipeSource()) == b"AZBC"


def test_objects_are_sent_in_manifest_order(tmp_path: Path) -> None:
    manifest = write_objects(tmp_path) / "list.manifest"
    manifest.write_text(json.dumps([{"prefix": "s3://bucket/"}, "c.txt", "a/z.txt"]))
    assert read_stream(manifest, PipeSource("ManifestFile")) == b"CZ"


def test_attributes_are_sent_in_requested_order(tmp_path: Path) -> None:
    manifest = write_objects(tmp_path) / "train.manifest"
    manifest.write_text('{"label": 1, "source-ref": "s3://bucket/a.txt", "other": 2}\n')
    options = PipeSource("AugmentedManifestFile", ("source-ref", "label"), wrapped=True)
    length = (1).to_bytes(4, "little")
    assert read_stream(manifest, options) == RECORD + length + b"A\0\0\0" + RECORD + length + b"1\0\0\0"


def test_shuffling_changes_order_per_epoch_and_shards_are_disjoint(tmp_path: Path) -> None:
    source = write_objects(tmp_path)
    orders = {read_stream(source, PipeSource(shuffle_seed=1), epoch) for epoch in range(8)}
    assert len(orders) > 1
    assert {bytes(sorted(order)) for order in orders} == {b"ABCZ"}
    shards = [read_stream(source, PipeSource(shard=(host, 6))) for host in range(6)]
    assert (b"".join(shards), shards[4:]) == (b"AZBC", [b"", b""])


def test_gzip_objects_are_decompressed(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"plain"))
    assert read_stream(tmp_path, PipeSource(inflated=True)) == b"plain"
    assert read_stream(tmp_path, PipeSource()).startswith(b"\x1f\x8b")


@contextmanager
def running_feeder(source: Path, folder: Path, options: FeederOptions) -> Iterator[None]:
    folder.mkdir()
    feeder = PipeFeeder("train", folder, source, PipeSource(), options)
    try:
        yield
    finally:
        feeder.kill()


def test_each_epoch_has_a_pipe_even_if_late_and_slow(tmp_path: Path) -> None:
    source, folder = write_objects(tmp_path / "s3"), tmp_path / "data"
    with running_feeder(
        source, folder, FeederOptions(delay_seconds=0.1, bytes_per_second=40.0, burst_bytes=1, fifos_ahead=0)
    ):
        for epoch in range(2):
            eventually((folder / f"train_{epoch}").exists)
            assert (folder / f"train_{epoch}").read_bytes() == b"AZBC"


def test_early_close_starts_next_epoch(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1 << 20))
    with running_feeder(tmp_path / "big", tmp_path / "data", FeederOptions()):
        eventually((tmp_path / "data" / "train_0").exists)
        with (tmp_path / "data" / "train_0").open("rb", buffering=0) as pipe:
            assert pipe.read(1) == b"\0"
        eventually((tmp_path / "data" / "train_1").exists)
        assert len((tmp_path / "data" / "train_1").read_bytes()) == 1 << 20
        assert not os.path.lexists(tmp_path / "data" / "train_0")
