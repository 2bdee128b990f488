"""Checks the channels of a job: names, content types and input modes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from finetune.config.content_types import (
    IMAGE_FORMATS,
    RECORD_TYPES,
    TEXT_FORMATS,
    StreamFormat,
    has_class_ids,
    parse_label_size,
    stream_format_of,
)
from finetune.config.faults import join_faults, quoted
from finetune.config.hyperparameters import JobSpec, TaskName
from finetune.errors import UserError, did_you_mean

IMAGE_TYPES = frozenset(IMAGE_FORMATS)
TEXT_TYPES = frozenset(TEXT_FORMATS)
MODEL_TYPES = frozenset(
    {"application/x-sagemaker-model", "application/x-tar", "application/gzip", "application/x-gzip"}
)
LABEL_TYPES = frozenset({"text/plain", "application/json"})
LIST_TYPES = frozenset({"text/plain", "text/tab-separated-values"}) | IMAGE_TYPES
# Generic types written by clients: the format is detected from the content.
_GENERIC_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-directory"})

_CONTENT_TYPES: Mapping[str, frozenset[str]] = {
    "train": IMAGE_TYPES | TEXT_TYPES,
    "validation": IMAGE_TYPES | TEXT_TYPES,
    "test": IMAGE_TYPES | TEXT_TYPES,
    "model": MODEL_TYPES,
    "train_lst": LIST_TYPES,
    "validation_lst": LIST_TYPES,
    "test_lst": LIST_TYPES,
    "labels": LABEL_TYPES,
}
_CHANNEL_ALIASES: Mapping[str, str] = {"training": "train", "valid": "validation"}
# Clients add these for code that runs in framework images; an algorithm image ignores them.
_CLIENT_CHANNELS = frozenset({"code", "sm_drivers"})
_RECORD_CHANNELS = ("train", "validation", "test")


class ChannelRequest(Protocol):
    """The platform's configuration of a channel."""

    @property
    def input_mode(self) -> str:
        """`File` (also reported for FastFile) or `Pipe`, case-insensitive."""
        ...

    @property
    def content_type(self) -> str | None:
        """MIME type as the user gave it."""
        ...

    @property
    def record_wrapper(self) -> str:
        """`recordio` or `none`."""
        ...


@dataclass(frozen=True, slots=True)
class CheckedChannel:
    """A channel that the job reads.

    Attributes:
        name: as the user gave it, which is also the name of its folder.
        content_type: in lower case and without parameters; `None` to detect the format from the content.
        piped: whether it comes in Pipe mode.
        stream_format: stream format implied by the content type; `None` if it implies none.
        wrapped: whether each object or attribute comes as one RecordIO record.
        class_ids: whether label lists contain class indices.
        label_size: label columns before the others in a table without header; `None` if not given in the request.
    """

    name: str
    content_type: str | None
    piped: bool = False
    stream_format: StreamFormat | None = None
    wrapped: bool = False
    class_ids: bool = False
    label_size: int | None = None


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels of a job.

    Attributes:
        by_purpose: keys among `train`, `validation`, `test`, `model`, `train_lst`, `validation_lst`,
            `test_lst`, `labels`.
        notes: one sentence for each channel that is ignored, and why; for the log.
    """

    by_purpose: Mapping[str, CheckedChannel]
    notes: tuple[str, ...] = ()


def check_channels(requested: Mapping[str, ChannelRequest], spec: JobSpec) -> Channels:
    """Check names, content types and input modes before anything is read.

    Args:
        requested: channels by name.
        spec: the checked hyperparameters, whose task and strategy determine the required channels.

    Raises:
        UserError: all faults at once, one per line.
    """
    names = {name: _CHANNEL_ALIASES.get(name, name) for name in requested if name not in _CLIENT_CHANNELS}
    by_purpose: dict[str, CheckedChannel] = {}
    faults: list[str] = []
    notes = [
        f"Channel {name!r} is ignored: this image does not run user code." for name in requested if name not in names
    ]
    if _validates_on_test(names.values(), spec):
        names = {name: "validation" if purpose == "test" else purpose for name, purpose in names.items()}
        notes.append("Channel 'test' is used for validation after every epoch, as scripts for the Trainer do.")
    for name, purpose in names.items():
        content_type = _normalize_content_type(requested[name].content_type)
        if purpose not in _CONTENT_TYPES:
            faults.append(_unknown_channel_fault(name))
            continue
        if purpose in by_purpose:
            faults.append(
                f"Channels {by_purpose[purpose].name!r} and {name!r} are the same channel: give only one of them."
            )
        by_purpose[purpose] = _check_channel(name, requested[name], content_type)
        faults += _input_mode_faults(by_purpose[purpose], purpose, requested[name].input_mode)
        faults += _content_type_faults(by_purpose[purpose], purpose, spec.data.task)
    faults += _missing_channel_faults(by_purpose, spec)
    if faults:
        raise UserError(join_faults(faults))
    return Channels(by_purpose, tuple(notes))


def _validates_on_test(purposes: Collection[str], spec: JobSpec) -> bool:
    """Whether the channel `test` has the role of `validation`, as in the tool whose request this is."""
    has_role = spec.dialect is not None and spec.dialect.evaluates_on_test and spec.strategy.trains
    return has_role and "test" in purposes and not {"validation", "test_lst"} & set(purposes)


def _normalize_content_type(content_type: str | None) -> str | None:
    bare = (content_type or "").partition(";")[0].strip().lower()
    return None if bare in _GENERIC_TYPES else bare


def _unknown_channel_fault(name: str) -> str:
    names = [*_CONTENT_TYPES, *_CHANNEL_ALIASES]
    return f"Unknown channel {quoted(name)}{did_you_mean(name, names)}: use one of {', '.join(names)}."


def _check_channel(name: str, request: ChannelRequest, content_type: str | None) -> CheckedChannel:
    if request.input_mode.lower() != "pipe":
        return CheckedChannel(
            name,
            content_type,
            class_ids=has_class_ids(request.content_type),
            label_size=parse_label_size(request.content_type),
        )
    return CheckedChannel(
        name,
        content_type,
        piped=True,
        stream_format=stream_format_of(content_type),
        wrapped=request.record_wrapper.lower() == "recordio",
        class_ids=has_class_ids(request.content_type),
        label_size=parse_label_size(request.content_type),
    )


def _input_mode_faults(channel: CheckedChannel, purpose: str, mode: str) -> list[str]:
    if mode.lower() not in {"file", "fastfile", "pipe"}:
        return [f"Channel {channel.name!r} has the unsupported input mode {mode!r}: use File, FastFile or Pipe."]
    if channel.piped and purpose not in _RECORD_CHANNELS:
        return [f"Channel {channel.name!r} cannot be read in Pipe mode: use input mode File or FastFile."]
    if channel.stream_format == "parquet":
        return [
            f"Channel {channel.name!r} contains Parquet, which needs random access and cannot be read in Pipe mode:"
            " use input mode File or FastFile."
        ]
    return []


def _content_type_faults(channel: CheckedChannel, purpose: str, task: TaskName | None) -> list[str]:
    content_type, allowed = channel.content_type, _CONTENT_TYPES[purpose]
    if purpose in _RECORD_CHANNELS and task is not None:
        allowed = IMAGE_TYPES if task == "image-classification" else TEXT_TYPES
    if purpose in _RECORD_CHANNELS:
        allowed |= RECORD_TYPES.keys()
    if purpose in _RECORD_CHANNELS and channel.label_size not in (None, 1):
        return [
            f"Channel {channel.name!r} has label_size={channel.label_size} in its content type, but a record has one"
            " label column: use label_size=1, or remove it."
        ]
    if content_type is None or content_type in allowed:
        return []
    reason = f" for task {task}" if content_type in _CONTENT_TYPES[purpose] else ""
    return [
        f"Channel {channel.name!r} has the unsupported content type {quoted(content_type)}{reason}:"
        f" use one of {', '.join(sorted(allowed))}, or none."
    ]


def _missing_channel_faults(channels: Mapping[str, CheckedChannel], spec: JobSpec) -> list[str]:
    names = set(channels)
    faults = []
    if not spec.strategy.trains:
        if not names & set(_RECORD_CHANNELS):
            faults.append("strategy=evaluate needs a channel 'test' or 'validation': add one.")
    elif "train" not in names:
        faults.append("There is no channel 'train': add it, or use strategy=evaluate with a channel 'test'.")
    for name in _RECORD_CHANNELS:
        if f"{name}_lst" in names and name not in names:
            faults.append(f"Channel '{name}_lst' lists files of the channel '{name}', which is missing: add it.")
        elif f"{name}_lst" in names and channels[name].piped:
            faults.append(
                f"Channel '{name}_lst' lists files of the channel '{name}', which is in Pipe mode: use input mode"
                f" File or FastFile for '{name}'."
            )
        if f"{name}_lst" in names and spec.data.task == "text-classification":
            faults.append(
                f"Channel '{name}_lst' lists images, but the task is text-classification: remove the channel or"
                " change the task."
            )
    if _early_stopping_lacks_validation(channels, spec):
        faults.append(
            "early_stopping_patience needs validation records: add a channel 'validation', or set validation_fraction"
            " above 0 to hold out part of the channel 'train'."
        )
    return faults


def _early_stopping_lacks_validation(channels: Mapping[str, CheckedChannel], spec: JobSpec) -> bool:
    held_out = "validation" in channels or spec.data.validation_fraction > 0
    return spec.optimization.early_stopping_patience is not None and spec.strategy.trains and not held_out
