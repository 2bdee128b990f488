"""Decoding speed: protobuf records compared with the protobuf library, images compared with Pillow."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation
from numpy.typing import NDArray
from PIL import Image

from benchmarks.pipe.comparing import Row, Scale, by_turns, rate, times_as_fast
from benchmarks.pipe.streams import jpegs
from finetune.data.formats.protobuf_records import RecordTensor, read_protobuf_record
from finetune.data.transforms.image import ImageGeometry, decode_image, resize_and_crop

GEOMETRY = ImageGeometry(224, 256, "bilinear")
_VALUES = 784


def measure(scale: Scale) -> Iterator[Row]:
    """Compare on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield _protobuf(scale)
        yield _images(scale)
    finally:
        torch.set_num_threads(threads)


def _protobuf(scale: Scale) -> Row:
    record = _record_class()
    draw = np.random.default_rng(1)
    payloads = []
    for number in range(max(8, scale.images // 8)):
        one = record()
        one.features["values"].float32_tensor.values.extend(draw.normal(size=_VALUES).astype(np.float32))
        one.label["values"].float32_tensor.values.append(number % 10)
        payloads.append(one.SerializeToString())

    def theirs(payload: bytes) -> NDArray[Any]:
        return np.array(record.FromString(payload).features["values"].float32_tensor.values[:], np.float32)

    def ours(payload: bytes) -> NDArray[Any]:
        tensor = read_protobuf_record(memoryview(payload)).features["values"]
        if not isinstance(tensor, RecordTensor):
            raise TypeError("numbers were written")
        return tensor.values.copy()  # ours are views of the payload, theirs are not

    if any((theirs(payload) != ours(payload)).any() for payload in payloads[:8]):
        raise RuntimeError("protobuf reads different numbers")
    designs = {"ours": partial(_each, payloads, ours), "theirs": partial(_each, payloads, theirs)}
    seconds = by_turns(designs, scale.rounds)
    own, other = (rate(len(payloads), seconds[name], "records/s") for name in ("ours", "theirs"))
    library = f"protobuf {version('protobuf')}, {api_implementation.Type()}, {other}"
    return Row(
        f"Record of {_VALUES} floats, to an array", own, library, times_as_fast(seconds, "ours", "theirs"), "≥ 100"
    )


def _record_class() -> Any:  # noqa: ANN401 - created at run time
    """The part of the platform's schema for dense numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="record.proto", package="aialgs.data", syntax="proto2")
    tensor = file.message_type.add(name="Float32Tensor")
    values = tensor.field.add(name="values", number=1, type=2, label=3)
    values.options.packed = True
    value = file.message_type.add(name="Value")
    value.field.add(name="float32_tensor", number=2, type=11, label=1, type_name=".aialgs.data.Float32Tensor")
    record = file.message_type.add(name="Record")
    for number, name in ((1, "features"), (2, "label")):
        entry = record.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=9, label=1)
        entry.field.add(name="value", number=2, type=11, label=1, type_name=".aialgs.data.Value")
        full = f".aialgs.data.Record.{entry.name}"
        record.field.add(name=name, number=number, type=11, label=3, type_name=full)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName("aialgs.data.Record"))


def _images(scale: Scale) -> Row:
    images = jpegs(min(64, scale.images))
    differences = [np.abs(by_us(one).numpy().astype(int) - by_pillow(one).numpy()).mean() for one in images]
    work = images * max(1, scale.images // 8 // len(images))
    designs = {"ours": partial(_each, work, by_us), "theirs": partial(_each, work, by_pillow)}
    seconds = by_turns(designs, scale.rounds)
    own, other = (rate(len(work), seconds[name], "images/s") for name in ("ours", "theirs"))
    what = f"JPEG, 500 x 375, to 224 x 224; pixels differ by {np.mean(differences):.3f} of 255"
    return Row(what, own, f"Pillow, {other}", times_as_fast(seconds, "ours", "theirs"), "≥ 2")


def by_us(content: bytes) -> torch.Tensor:
    """Pixels as preprocessed by jobs in evaluation."""
    return resize_and_crop(decode_image(content), GEOMETRY)


def by_pillow(content: bytes) -> torch.Tensor:
    """The same with Pillow only."""
    with Image.open(io.BytesIO(content)) as image:
        side, size = GEOMETRY.resize, GEOMETRY.size
        width, height = image.size
        scale = side / min(width, height)
        resized = image.convert("RGB").resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
        left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
        square = resized.crop((left, top, left + size, top + size))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def _each(contents: Sequence[bytes], call: Callable[[bytes], object]) -> float:
    began = time.perf_counter()
    for content in contents:
        call(content)
    return time.perf_counter() - began
