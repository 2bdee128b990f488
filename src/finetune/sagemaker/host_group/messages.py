"""Messages between the hosts of a job: JSON objects, one per line, checked before use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from finetune.sagemaker.failure import Failure
from finetune.sagemaker.host_group.first_failure import Report
from finetune.sagemaker.host_group.members import HostInfo

LINE_LIMIT = 1 << 20
"""Maximum length of a line in bytes: enough for a failure message of maximum length, all of it escaped."""
_MAX_DEVICES = 1 << 10
_MAX_EXIT_CODE = 255

Kind = Literal["hello", "members", "refusal", "heartbeat", "stop", "failure", "finished", "end"]
"""Kinds of messages.

- `hello`: another host connects, with its description.
- `members`: all hosts have connected; the first host sends the list.
- `refusal`: the first host does not accept this host; the failure is the reason.
- `heartbeat`: the sender is alive.
- `stop`: the job was asked to stop.
- `failure`: to the first host: a failure of the sender; from the first host: the first failure of the job.
- `finished`: the processes of the sender have ended.
- `end`: all hosts have finished; with the failure of the job, if it failed.
"""


class MessageError(ValueError):
    """A line is not a message of this protocol."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message with its kind and content."""

    kind: Kind
    content: Mapping[str, object] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The message as a line."""
        return json.dumps({"kind": self.kind, **self.content}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read a message.

    Raises:
        MessageError: the line is not a JSON object with a known kind.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MessageError("not JSON") from error
    if not isinstance(value, dict) or value.get("kind") not in get_args(Kind):
        raise MessageError("not a message")
    return Message(value.pop("kind"), value)


def hello_message(info: HostInfo) -> Message:
    """The message `hello`."""
    return Message("hello", {"host": asdict(info)})


def hello_of(message: Message) -> HostInfo:
    """The description of the host in a message `hello`.

    Raises:
        MessageError: the message is of another kind or incomplete.
    """
    if message.kind != "hello":
        raise MessageError(f"expected hello, got {message.kind}")
    return _host_info(message.content.get("host"))


def members_message(hosts: tuple[HostInfo, ...]) -> Message:
    """The message `members`."""
    return Message("members", {"hosts": [asdict(host) for host in hosts]})


def members_of(message: Message) -> tuple[HostInfo, ...]:
    """All hosts in the message `members`.

    Raises:
        MessageError: the message is incomplete.
    """
    hosts = message.content.get("hosts")
    if not isinstance(hosts, list):
        raise MessageError("no list of hosts")
    return tuple(map(_host_info, hosts))


def failure_content(failure: Failure | None) -> dict[str, object]:
    """A failure, or none, as content of a message."""
    return {"failure": None if failure is None else asdict(failure)}


def failure_of_message(message: Message) -> Failure | None:
    """The failure in a message, if any.

    Raises:
        MessageError: it is incomplete.
    """
    value = message.content.get("failure")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise MessageError("failure is not an object")
    exit_code = _integer(value, "exit_code", 1, _MAX_EXIT_CODE)
    return Failure(_text(value, "message"), exit_code, expected=bool(value.get("expected")))


def report_message(report: Report, now: float) -> Message:
    """The message `failure` to the first host: clocks of hosts differ, so it contains the seconds since the failure."""
    age = max(now - report.occurred_at, 0.0)
    return Message("failure", {**failure_content(report.failure), "age": age, "is_consequence": report.is_consequence})


def report_of(message: Message, now: float) -> Report:
    """The report in a message `failure` from another host that arrived at `now`.

    Raises:
        MessageError: it is incomplete.
    """
    failure, age = failure_of_message(message), message.content.get("age")
    if failure is None or not isinstance(age, int | float) or not 0 <= age < float("inf"):
        raise MessageError("incomplete report of a failure")
    return Report(failure, now - age, is_consequence=bool(message.content.get("is_consequence")))


def _host_info(value: object) -> HostInfo:
    if not isinstance(value, dict):
        raise MessageError("host is not an object")
    request, model = value.get("request"), value.get("device_model")
    if not isinstance(request, dict) or not all(isinstance(digest, str) for digest in request.values()):
        raise MessageError("request is not an object of strings")
    return HostInfo(
        name=_text(value, "name"),
        devices=_integer(value, "devices", 1, _MAX_DEVICES),
        device_model=model if isinstance(model, str) else None,
        device_memory_bytes=_integer(value, "device_memory_bytes", 0, 1 << 60),
        version=_text(value, "version"),
        request=request,
    )


def _text(value: Mapping[str, object], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise MessageError(f"{key} is not a string")
    return text


def _integer(value: Mapping[str, object], key: str, low: int, high: int) -> int:
    number = value.get(key)
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise MessageError(f"{key} is not an integer from {low} to {high}")
    return number
