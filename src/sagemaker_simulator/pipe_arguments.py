"""Command line options of channels in Pipe mode and of their content."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

from sagemaker_simulator.configuration import RequestError
from sagemaker_simulator.feeder import FeederOptions
from sagemaker_simulator.object_stream import DataType, PipeSource

_MODES = ("File", "FastFile", "Pipe")
_FILE_CHANNELS = ("model", "labels")
_OPTIONS = ("attribute_names", "data_type", "shuffle_seed", "shard", "pipe_rate")
_DISTRIBUTIONS = ("FullyReplicated", "ShardedByS3Key")
_FLAGS = ("record_wrapper", "gzip")


@dataclass(frozen=True, slots=True)
class ChannelDelivery:
    """Delivery of one channel.

    Attributes:
        pipe: Content sent through pipes; `None` for a channel in File mode.
        feeder_options: Behavior of the pipe feeder.
        distribution: `S3DistributionType`.
        shard: This host's number and the number of hosts.
    """

    pipe: PipeSource | None = None
    feeder_options: FeederOptions = field(default_factory=FeederOptions)
    distribution: Literal["FullyReplicated", "ShardedByS3Key"] = "FullyReplicated"
    shard: tuple[int, int] = (0, 1)


def add_pipe_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; except flags, they apply to all channels in Pipe mode or, as CHANNEL=VALUE, to one."""
    group = parser.add_argument_group(
        "input modes", "A value applies to all channels in Pipe mode, or as CHANNEL=VALUE to one (repeatable)."
    )
    for flag, metavar, description in (
        (
            "--input-mode",
            "MODE",
            f"{', '.join(_MODES)} (default: File); without CHANNEL it applies to all but 'model', 'labels', '..._lst'",
        ),
        (
            "--distribution",
            "TYPE",
            f"S3DataDistributionType: {', '.join(_DISTRIBUTIONS)} (default: {_DISTRIBUTIONS[0]}); in every input mode",
        ),
        ("--attribute-names", "A,B", "attributes to send if the channel's file is an augmented manifest"),
        ("--data-type", "TYPE", f"S3DataType: {', '.join(get_args(DataType))} (default: by --attribute-names)"),
        ("--shuffle-seed", "N", "ShuffleConfig: shuffle objects, or lines of a manifest, in each epoch"),
        ("--shard", "I/N", "ShardedByS3Key: send the objects of host I, from 0, of N hosts"),
        ("--pipe-rate", "MB", "maximum megabytes per second (default: unlimited)"),
    ):
        group.add_argument(flag, metavar=metavar, action="append", default=[], help=description)
    group.add_argument(
        "--record-wrapper", action="store_true", help="RecordWrapperType=RecordIO: each object or attribute is a record"
    )
    group.add_argument("--gzip", action="store_true", help="CompressionType=Gzip: decompress objects")


def parse_deliveries(options: argparse.Namespace, channels: Collection[str]) -> dict[str, ChannelDelivery]:
    """Return the delivery of each channel.

    Raises:
        RequestError: An option is invalid, or names an unknown channel or one not in Pipe mode.
    """
    modes = _parse_channel_values(options.input_mode, "--input-mode", channels)
    for name, mode in modes.items():
        _check_choice(mode, _MODES, f"--input-mode {name}={mode}")
    pipe_channels = [name for name in channels if _channel_value(name, modes) == "Pipe"]
    distributions = _parse_channel_values(options.distribution, "--distribution", channels)
    for name, distribution in distributions.items():
        _check_choice(distribution, _DISTRIBUTIONS, f"--distribution {name}={distribution}".replace(" =", " "))
    texts = {option: getattr(options, option) for option in _OPTIONS}
    unsupported = next((name for name in (*_OPTIONS, *_FLAGS) if getattr(options, name) and not pipe_channels), None)
    if unsupported is not None:
        raise RequestError(
            f"--{unsupported.replace('_', '-')} applies only to channels in Pipe mode; add --input-mode Pipe"
        )
    values = {
        option: _parse_channel_values(arguments, f"--{option.replace('_', '-')}", pipe_channels)
        for option, arguments in texts.items()
    }
    deliveries = {}
    for name in channels:
        channel_options = {
            option: value
            for option, by_channel in values.items()
            if (value := by_channel.get(name, by_channel.get("")))
        }
        delivery = _parse_delivery(channel_options, options) if name in pipe_channels else ChannelDelivery()
        is_sharded = _channel_value(name, distributions) == "ShardedByS3Key"
        deliveries[name] = replace(delivery, distribution="ShardedByS3Key") if is_sharded else delivery
    if len({delivery.shard for delivery in deliveries.values() if delivery.shard[1] > 1}) > 1:
        raise RequestError("--shard: one host of a job is simulated; use the same I/N for every channel")
    return deliveries


def _channel_value(name: str, values: Mapping[str, str]) -> str:
    """Return the value of a channel, or else the general one for channels with records; empty without either."""
    takes_default = name not in _FILE_CHANNELS and not name.endswith("_lst")
    return values.get(name) or (values.get("") if takes_default else None) or ""


def _parse_channel_values(texts: Iterable[str], option: str, channels: Collection[str]) -> dict[str, str]:
    """Return values by channel; the value for all channels has an empty name."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name, value = (name, value) if equals else ("", text)
        if name and name not in channels:
            raise RequestError(
                f"{option} {text}: no channel {name!r} for this option; allowed: {', '.join(channels) or 'none'}"
            )
        if name in values:
            raise RequestError(f"{option} {text} is given more than once")
        values[name] = value
    return values


def _parse_delivery(channel_options: Mapping[str, str], options: argparse.Namespace) -> ChannelDelivery:
    attributes = tuple(name for name in channel_options.get("attribute_names", "").split(",") if name)
    data_type = channel_options.get("data_type", "AugmentedManifestFile" if attributes else "S3Prefix")
    _check_choice(data_type, get_args(DataType), f"--data-type {data_type}")
    if (data_type == "AugmentedManifestFile") != bool(attributes):
        raise RequestError("--attribute-names and --data-type AugmentedManifestFile require each other")
    host, hosts = _parse_shard(channel_options.get("shard", "0/1"))
    return ChannelDelivery(
        PipeSource(
            data_type=cast(DataType, data_type),
            attributes=attributes,
            wrapped=options.record_wrapper,
            inflated=options.gzip,
            shuffle_seed=int(_parse_number(channel_options["shuffle_seed"], "--shuffle-seed"))
            if "shuffle_seed" in channel_options
            else None,
            shard=(host, hosts),
        ),
        FeederOptions(
            bytes_per_second=_parse_number(channel_options["pipe_rate"], "--pipe-rate", 0.001) * 1e6
            if "pipe_rate" in channel_options
            else None
        ),
        "ShardedByS3Key" if "shard" in channel_options else "FullyReplicated",
        (host, hosts),
    )


def _check_choice(value: str, allowed: Collection[str], argument: str) -> None:
    if value not in allowed:
        raise RequestError(f"{argument}: expected one of {', '.join(allowed)}")


def _parse_number(text: str, option: str, minimum: float = 0.0) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not minimum <= number < float("inf"):
        raise RequestError(f"{option} {text}: expected a number of at least {minimum:g}")
    return number


def _parse_shard(text: str) -> tuple[int, int]:
    host, _, hosts = text.partition("/")
    if not (host.isdecimal() and hosts.isdecimal() and int(host) < int(hosts)):
        raise RequestError(f"--shard {text}: expected --shard I/N with I from 0 to N - 1")
    return int(host), int(hosts)
