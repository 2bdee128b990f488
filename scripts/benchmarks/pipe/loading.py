"""The loader's use of two cores for decoding, time to the first batch, and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.pipe.comparing import Row, Scale, by_turns, rate, times_as_fast
from benchmarks.pipe.decoding import GEOMETRY
from benchmarks.pipe.streams import fed, jpegs, place_of, write_images
from finetune.config.parse import parse_hyperparameters
from finetune.data.bad_records import BadRecords
from finetune.data.formats.codec import StreamLayout
from finetune.data.formats.named_fields import DecodeOptions
from finetune.data.labels import LabelMap
from finetune.data.loading.batches import Batches, BatchOptions
from finetune.data.loading.dataset import Dataset
from finetune.data.pipe.batches import StreamBatches, StreamData
from finetune.data.pipe.source import StreamSource
from finetune.data.readers.channel_files import list_files
from finetune.data.readers.image_folder import read_image_folder
from finetune.data.transforms.base import ImageTransform
from sagemaker_simulator import FeederOptions, PipeSource
from sagemaker_simulator.feeder import PipeFeeder

CORES = 2
_BATCH = 64
_LABELS = LabelMap(("0", "1"), multi_label=False)
_BURST = 1 << 16


def measure(scale: Scale) -> Iterator[Row]:
    """Compare speed, the first batch, and memory."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        yield _throughput(scale, Path(scratch))
        yield _first_batch(scale, Path(scratch))
        yield _memory(scale, Path(scratch))


def loader(folder: Path) -> StreamBatches:
    """The loader that jobs use for images, shuffled with the default buffer, without augmentation."""
    spec = parse_hyperparameters({}).data
    source = StreamSource(
        place_of(folder), StreamLayout("train", "recordio"), DecodeOptions("image-classification", spec)
    )
    data = StreamData(source, _LABELS, ImageTransform(GEOMETRY, "none"), None, None, spec.shuffle_buffer)
    return StreamBatches(data, _options(), BadRecords("train", 0))


def _options() -> BatchOptions:
    return BatchOptions(_BATCH, seed=1, shuffle=True, augment=False, workers=CORES, pin_memory=False)


def _throughput(scale: Scale, scratch: Path) -> Row:
    images = jpegs(min(512, scale.images))
    stream = scratch / "images"
    write_images(stream, images)
    times = scale.images // len(images)
    with _decoders(stream, times) as in_memory:
        seconds = by_turns({"ours": partial(_epoch, stream, times), "bound": in_memory}, scale.rounds)
    own, other = (rate(scale.images, seconds[name], "images/s") for name in ("ours", "bound"))
    ratios = times_as_fast(seconds, "ours", "bound")
    return Row(f"whole loader on {CORES} cores", own, f"{CORES} decoding-only processes, {other}", ratios, "≥ 0.80")


def _epoch(stream: Path, times: int) -> float:
    with fed(stream, times) as folder:
        began = time.perf_counter()
        for _ in loader(folder).iterate(0):
            pass
        return time.perf_counter() - began


@contextmanager
def _decoders(stream: Path, times: int) -> Iterator[partial[float]]:
    """Processes that hold the records in memory, and decode their share on request."""
    command = (sys.executable, "-m", "benchmarks.pipe.decoder", stream, str(times / CORES))
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for _ in range(CORES)
    ]
    try:
        for process in processes:
            _answer(process)
        yield partial(_all_decode, processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _all_decode(processes: list[subprocess.Popen[str]]) -> float:
    began = time.perf_counter()
    for process in processes:
        if process.stdin is not None:
            process.stdin.write("go\n")
    for process in processes:
        _answer(process)
    return time.perf_counter() - began


def _answer(process: subprocess.Popen[str]) -> None:
    if process.stdout is None or not process.stdout.readline():
        raise RuntimeError("a decoding process has exited")


def _first_batch(scale: Scale, scratch: Path) -> Row:
    images = jpegs(min(512, scale.images))
    repeated = scale.source // sum(map(len, images)) + 1
    objects = scratch / "objects"
    objects.mkdir()
    for number in range(repeated):
        (objects / f"{number:04d}.rec").hardlink_to(scratch / "images")
    designs = {
        "ours": partial(_first_through_pipe, objects, scale.rate),
        "theirs": partial(_first_from_files, images, scale),
    }
    # No warm-up round: it would take as long, and there is nothing to warm up.
    turns = [{name: design() for name, design in designs.items()} for _ in range(min(5, scale.rounds))]
    ratios = [turn["ours"] / turn["theirs"] for turn in turns]
    own, other = (f"{np.median([turn[name] for turn in turns]):.2f} s" for name in designs)
    what = f"first batch, {scale.source / 1e9:g} GB at {scale.rate / 1e6:.0f} MB/s, excluding process start"
    return Row(what, own, f"File mode with its download, {other}", ratios, "≤ 0.05")


def _first_through_pipe(objects: Path, speed: float) -> float:
    with tempfile.TemporaryDirectory(prefix="pipe-") as folder:
        began = time.perf_counter()
        manners = FeederOptions(bytes_per_second=speed, burst_bytes=_BURST, fifos_ahead=0)
        feeder = PipeFeeder("train", Path(folder), objects, PipeSource(), manners)
        try:
            with closing(loader(Path(folder)).iterate(0)) as batches:
                next(batches)
                return time.perf_counter() - began
        finally:
            feeder.kill()


def _first_from_files(images: list[bytes], scale: Scale) -> float:
    """Write the files at the speed of the source, then read the first batch."""
    with tempfile.TemporaryDirectory(prefix="files-") as folder:
        began = time.perf_counter()
        written = number = 0
        for label in _LABELS.names:
            (Path(folder) / label).mkdir()
        while written < scale.source:
            image = images[number % len(images)]
            (Path(folder) / str(number % 2) / f"{number:06d}.jpg").write_bytes(image)
            written, number = written + len(image), number + 1
            time.sleep(max(0.0, began + written / scale.rate - time.perf_counter()))
        reader = read_image_folder(list_files("train", Path(folder)))
        dataset = Dataset(reader, tuple(range(len(reader))), _LABELS, ImageTransform(GEOMETRY, "none"))
        with closing(Batches(dataset, _options(), BadRecords("train", 0)).iterate(0)) as batches:
            next(batches)
            return time.perf_counter() - began


def _memory(scale: Scale, scratch: Path) -> Row:
    stream = scratch / "large images"
    write_images(stream, jpegs(min(256, scale.images), noise=6, quality=95))
    times = max(10, scale.long // stream.stat().st_size)
    shares = (times, times // 10)
    took = [_memory_of(stream, share) for share in shares]
    gigabytes = stream.stat().st_size / 1e9
    ours, theirs = (
        f"{peak:.0f} MiB over {share * gigabytes:.2g} GB" for share, (_, peak) in zip(shares, took, strict=True)
    )
    what = f"peak memory of a loading process, {took[0][0]:.0f} MiB of which before the first record"
    return Row(what, ours, theirs, [took[0][1] / took[1][1]], "bounded")


def _memory_of(stream: Path, times: int) -> list[float]:
    """MiB before the first record and peak MiB of a process that loads a stream `times` times."""
    with fed(stream, times) as folder:
        command = (sys.executable, "-m", "benchmarks.pipe.long_stream", folder)
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [int(kib) / 1024 for kib in output.split()]


def use_two_cores() -> None:
    """Limit this process and its children to two cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
