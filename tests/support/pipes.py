"""The images and texts of the File mode jobs, as objects for pipes."""

from __future__ import annotations

import csv
import io
import json
import random
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from sagemaker_simulator import Channel, PipeSource, TrainingRequest
from tests.support.coloured_images import COLORS, encode_image, make_image
from tests.support.stream_writers import escaped_recordio
from tests.support.whole_jobs import ENVIRONMENT, ROOT

NAMES = tuple(COLORS)
OWN_TREE = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT / 'src'}:{ENVIRONMENT['PYTHONPATH']}"}


def image_objects(per_class: int, first: int = 0) -> list[tuple[str, bytes]]:
    """Classes and contents of images, interleaved."""
    objects = [
        (name, encode_image(make_image(name, number))) for number in range(first, first + per_class) for name in NAMES
    ]
    random.Random(first).shuffle(objects)
    return objects


def image_records(folder: Path, per_class: int, first: int = 0) -> Channel:
    """MXNet image records in two objects, with numeric labels."""
    records = [
        escaped_recordio(struct.pack("<IfQQ", 0, NAMES.index(name), number, 0) + content)
        for number, (name, content) in enumerate(image_objects(per_class, first))
    ]
    folder.mkdir(parents=True)
    (folder / "part-0.rec").write_bytes(b"".join(records[::2]))
    (folder / "part-1.rec").write_bytes(b"".join(records[1::2]))
    return Channel("train", folder, content_type="application/x-recordio", pipe=PipeSource())


def augmented_manifest(folder: Path, per_class: int, first: int = 0) -> Channel:
    """A manifest with an image and a class name in each line."""
    folder.mkdir(parents=True)
    lines = []
    for number, (name, content) in enumerate(image_objects(per_class, first)):
        (folder / f"{number}.png").write_bytes(content)
        lines.append(json.dumps({"source-ref": f"s3://bucket/{number}.png", "class": name}))
    (folder / "train.manifest").write_text("\n".join(lines))
    source = PipeSource("AugmentedManifestFile", ("source-ref", "class"), wrapped=True)
    return Channel("train", folder / "train.manifest", content_type="application/x-recordio", pipe=source)


def shards(folder: Path, per_class: int, first: int = 0) -> Channel:
    """Two tar shards with an image and a class in each sample."""
    folder.mkdir(parents=True)
    objects = image_objects(per_class, first)
    for shard in range(2):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
            for number, (name, content) in enumerate(objects[shard::2]):
                for extension, payload in (("png", content), ("cls", name.encode())):
                    info = tarfile.TarInfo(f"{number:04d}.{extension}")
                    info.size = len(payload)
                    tar.addfile(info, io.BytesIO(payload))
    return Channel("train", folder, content_type="application/x-tar", pipe=PipeSource())


def rename_channel(channel: Channel, name: str) -> Channel:
    """The same channel under another name."""
    return Channel(
        name, channel.source, "link", channel.content_type, pipe=channel.pipe, feeder_options=channel.feeder_options
    )


def as_files(channel: Channel) -> Channel:
    """The same records in File mode; a manifest is stored next to its images."""
    manifest = channel.pipe is not None and channel.pipe.data_type == "AugmentedManifestFile"
    source, content_type = (channel.source.parent, None) if manifest else (channel.source, channel.content_type)
    return Channel(channel.name, source, "link", content_type)


def texts(count: int, first: int = 0) -> list[tuple[str, str]]:
    """Labels and texts of simple sentences."""
    words = {"good": ("cat", "sat", "mat"), "bad": ("dog", "ran", "away")}
    objects = []
    for number in range(first, first + count):
        rng = random.Random(number)
        label = ("good", "bad")[number % 2]
        objects.append((label, f'the {rng.choice(words[label])},\n"{rng.choice(words[label])}" up'))
    return objects


def json_lines(folder: Path, count: int, first: int = 0) -> Channel:
    """JSON Lines in two objects, the first without a final newline."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"label": label, "text": text}) for label, text in texts(count, first)]
    (folder / "0.jsonl").write_text("\n".join(lines[::2]))
    (folder / "1.jsonl").write_text("\n".join(lines[1::2]) + "\n")
    return Channel("train", folder, content_type="application/jsonlines", pipe=PipeSource())


def tables(folder: Path, count: int, first: int = 0) -> Channel:
    """CSV without a header, label first, with line breaks inside quotation marks."""
    folder.mkdir(parents=True)
    with (folder / "0.csv").open("w", newline="") as file:
        csv.writer(file).writerows(texts(count, first))
    return Channel("train", folder, content_type="text/csv", pipe=PipeSource())


Writer = Callable[[Path, int, int], Channel]
IMAGE_STREAMS: Mapping[str, Writer] = {
    "image records": image_records,
    "augmented manifest": augmented_manifest,
    "tar shards": shards,
}
TEXT_STREAMS: Mapping[str, Writer] = {"JSON Lines": json_lines, "CSV": tables}


def piped_request(
    channels: tuple[Channel, ...], hyperparameters: Mapping[str, str], *, checkpoints: bool = False
) -> TrainingRequest:
    """A request for a job with channels in Pipe mode."""
    request = TrainingRequest(channels=channels, hyperparameters=hyperparameters, environment=OWN_TREE)
    if checkpoints:
        return request
    return TrainingRequest(
        channels=channels, hyperparameters=hyperparameters, environment=OWN_TREE, checkpoint_path=None
    )
