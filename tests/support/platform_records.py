"""The platform's protobuf records: the library's class for them, and all valid encodings."""

from __future__ import annotations

from functools import partial
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import strategies as st

from tests.support.stream_writers import inside, varint

_STRING, _BYTES, _MESSAGE, _UINT64 = 9, 12, 11, 4
_TENSORS = {"float32_tensor": (2, 2), "float64_tensor": (3, 1), "int32_tensor": (7, 5)}


def record_class() -> Any:  # noqa: ANN401 - created at run time
    """The `Record` class of `sagemaker.amazon.record.proto`."""
    file = descriptor_pb2.FileDescriptorProto(name="all_of_record.proto", package="aialgs.data", syntax="proto2")
    value, content = file.message_type.add(name="Value"), file.message_type.add(name="Bytes")
    value.oneof_decl.add(name="value")
    for name, (number, kind) in _TENSORS.items():
        tensor = file.message_type.add(name=name)
        for part, place, type_ in (("values", 1, kind), ("keys", 2, _UINT64), ("shape", 3, _UINT64)):
            tensor.field.add(name=part, number=place, type=type_, label=3).options.packed = True
        value.field.add(name=name, number=number, type=_MESSAGE, label=1, type_name=f".aialgs.data.{name}")
    content.field.add(name="value", number=1, type=_BYTES, label=3)
    value.field.add(name="bytes", number=9, type=_MESSAGE, label=1, type_name=".aialgs.data.Bytes")
    for one in value.field:
        one.oneof_index = 0
    record = file.message_type.add(name="Record")
    for name, number in (("features", 1), ("label", 2)):
        entry = record.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=_STRING, label=1)
        entry.field.add(name="value", number=2, type=_MESSAGE, label=1, type_name=".aialgs.data.Value")
        full = f".aialgs.data.Record.{entry.name}"
        record.field.add(name=name, number=number, type=_MESSAGE, label=3, type_name=full)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName("aialgs.data.Record"))


def mixed(*parts: st.SearchStrategy[bytes], max_parts: int = 3) -> st.SearchStrategy[bytes]:
    """Some of the parts in any order, possibly repeated."""
    return st.lists(st.one_of(*parts), max_size=max_parts).map(b"".join)


def repeated(number: int, one: st.SearchStrategy[bytes], kind: int) -> st.SearchStrategy[bytes]:
    """The numbers of a repeated field, packed or unpacked."""
    together = st.lists(one, max_size=9).map(lambda found: inside(number, b"".join(found)))
    return together | one.map(lambda found: varint(number << 3 | kind) + found)


VARINTS = st.integers(0, 2**64 - 1).map(varint) | st.integers(0, 200).map(varint)
UNKNOWN = st.binary(max_size=5).map(partial(inside, 6)) | VARINTS.map(lambda one: varint(6 << 3) + one)


def tensors(kind: int, size: int) -> st.SearchStrategy[bytes]:
    values = VARINTS if kind == 0 else st.binary(min_size=size, max_size=size)
    usual = st.lists(values, max_size=20).map(lambda found: inside(1, b"".join(found)))
    return usual | mixed(
        repeated(1, values, kind), repeated(2, VARINTS, 0), repeated(3, VARINTS, 0), UNKNOWN, max_parts=5
    )


VALUES = st.one_of(
    tensors(5, 4).map(partial(inside, 2)),
    tensors(1, 8).map(partial(inside, 3)),
    tensors(0, 0).map(partial(inside, 7)),
    mixed(st.binary(max_size=300).map(partial(inside, 1)), UNKNOWN).map(partial(inside, 9)),
)
NAMES = st.sampled_from(["values", "label", "", "größe"]).map(str.encode).map(partial(inside, 1))
USUAL = st.tuples(NAMES, VALUES.map(partial(inside, 2))).map(b"".join)
# Every value contains a known part, otherwise our parser rejects it.
VALUE = st.tuples(mixed(UNKNOWN), VALUES, mixed(VALUES, UNKNOWN)).map(b"".join)
ENTRIES = USUAL | mixed(NAMES, VALUE.map(partial(inside, 2)), UNKNOWN, max_parts=4)
RECORDS = mixed(ENTRIES.map(partial(inside, 1)), ENTRIES.map(partial(inside, 2)), UNKNOWN, max_parts=4)
