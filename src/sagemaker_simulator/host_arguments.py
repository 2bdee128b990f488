"""Command line options of jobs on several hosts, and of interruptions of single hosts, processes and links."""

from __future__ import annotations

import argparse
import math
import random
import secrets
from collections.abc import Sequence
from typing import cast, get_args

from sagemaker_simulator.configuration import RequestError
from sagemaker_simulator.interruptions import DEFAULT_AMOUNTS, GRACE_SECONDS, LINK_KINDS, Interruption, Kind, Moment
from sagemaker_simulator.network import reason_unavailable
from sagemaker_simulator.plan import PROCESSES_HYPERPARAMETER, Hosts, World

_KINDS = tuple(kind for kind in get_args(Kind) if kind != "stop")
_RANDOM_KINDS: tuple[Kind, ...] = ("kill", "reclaim", "kill_rank")
_RANDOM_KINDS_OF_SEVERAL_HOSTS: tuple[Kind, ...] = (*_RANDOM_KINDS, "cut")
_MAX_PROCESSES = 4
_LAST_RANK = 63


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of several hosts."""
    group = parser.add_argument_group("several hosts, each in its own network namespace (Linux, as root)")
    group.add_argument(
        "--hosts", metavar="N", default="1", help="number of hosts, named algo-1 and so on (default: %(default)s)"
    )
    group.add_argument(
        "--processes-per-host", metavar="N", help=f"the same as --hyperparameter {PROCESSES_HYPERPARAMETER}=N"
    )
    group.add_argument(
        "--restart-with",
        metavar="WORLDS",
        default="",
        help="number of hosts and processes per host for each restart after an interruption, such as 1x4,2x2, or "
        f"'random' (1 to --hosts hosts, 1 to {_MAX_PROCESSES} processes)",
    )
    group.add_argument(
        "--late", metavar="HOST=SECONDS", action="append", default=[], help="start a host later; 'inf' for never"
    )
    group.add_argument(
        "--names-after", metavar="SECONDS", default="0", help="hosts cannot resolve the others' names until then"
    )
    group.add_argument(
        "--failure-timeout",
        metavar="SECONDS",
        default=f"{GRACE_SECONDS:g}",
        help="time after the failure or loss of a host, or after its network was cut, until the others are killed "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--mirror-deletions",
        action="store_true",
        help="delete checkpoint files from S3 that any host deletes, as the developer guide says, unlike reports of "
        "users (default: keep them)",
    )


def add_interruption_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of interruptions."""
    group = parser.add_argument_group("interruptions")
    group.add_argument(
        "--interrupt-at",
        metavar="SECONDS",
        action="append",
        default=[],
        help="interrupt a start of the job after this number of seconds, or at a 'random' time, and restart it on a "
        "new machine with its checkpoints (repeatable: one per start)",
    )
    group.add_argument(
        "--interruption",
        metavar="KIND",
        default="kill",
        help="kill: the machine is lost immediately; reclaim: SIGTERM, and the machine is lost after the grace period; "
        "reclaim_twice: the same with a second SIGTERM; kill_rank: SIGKILL to one of the processes that train; and for "
        "the network of one of several hosts, cut; slow=MEGABITS; delay=MILLISECONDS; loss=PERCENT; or 'random' "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--interrupt-host", metavar="NAME", help="interrupt only this host, or a 'random' one (default: all hosts)"
    )
    group.add_argument("--restore-after", metavar="SECONDS", help="restore a disturbed network (default: never)")
    group.add_argument(
        "--within", metavar="SECONDS", default="60", help="latest time of 'random' (default: %(default)s)"
    )
    group.add_argument(
        "--grace",
        metavar="SECONDS",
        default=f"{GRACE_SECONDS:g}",
        help="time between SIGTERM and SIGKILL (default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=int, default=secrets.randbelow(1 << 32), help="seed of 'random' (default: a random seed)"
    )


def parse_hosts(options: argparse.Namespace) -> Hosts:
    """Return the hosts of the first start.

    Raises:
        RequestError: An option is invalid, or several hosts cannot be simulated here.
    """
    count = parse_count(options.hosts, "--hosts")
    delays = {}
    for text in options.late:
        name, _, seconds = text.partition("=")
        delays[name] = math.inf if seconds == "inf" else parse_seconds(seconds, f"--late {name}=", " or 'inf'")
    names_delay = parse_seconds(options.names_after, "--names-after")
    unused = next((flag for flag, value in (("late", delays), ("names-after", names_delay)) if value), None)
    if count == 1 and unused:
        raise RequestError(f"--{unused} applies only to jobs on several hosts; add --hosts")
    return Hosts(count, delays, names_delay, parse_seconds(options.failure_timeout, "--failure-timeout"))


def parse_worlds(options: argparse.Namespace, hosts: int) -> tuple[World, ...]:
    """Return the number of hosts and processes of each restart.

    Raises:
        RequestError: The option is invalid, or several hosts cannot be simulated here.
    """
    if options.restart_with == "random":
        generator = random.Random(f"{options.seed}/worlds")  # noqa: S311 - a schedule, not a secret
        worlds = [
            World(generator.randint(1, hosts), generator.randint(1, _MAX_PROCESSES)) for _ in options.interrupt_at
        ]
    else:
        worlds = [_parse_world(text) for text in options.restart_with.split(",") if text]
    if max([hosts, *(world.hosts for world in worlds)]) > 1:
        if options.image is not None:
            raise RequestError(
                "--hosts with --image is not supported; for containers as hosts, use the local mode of an SDK, as in "
                "Estimator(image_uri=..., instance_type='local', instance_count=2)"
            )
        if options.shard:
            raise RequestError("--shard simulates one of several hosts; use --distribution ShardedByS3Key with --hosts")
        reason = reason_unavailable()
        if reason:
            raise RequestError(reason)
    return tuple(worlds)


def parse_interruptions(options: argparse.Namespace, hosts: Hosts) -> tuple[Interruption, ...]:
    """Return the interruptions of the starts.

    Raises:
        RequestError: An option is invalid.
    """
    generator = random.Random(options.seed)  # noqa: S311 - a schedule, not a secret
    latest_seconds = parse_seconds(options.within, "--within")
    grace_seconds = parse_seconds(options.grace, "--grace")
    duration = None if options.restore_after is None else parse_seconds(options.restore_after, "--restore-after")
    kinds, amount = _parse_kinds(options.interruption, hosts)
    if options.interrupt_host not in (None, "random", *hosts.names):
        raise RequestError(
            f"--interrupt-host {options.interrupt_host}: expected 'random' or one of {', '.join(hosts.names)}"
        )
    interruptions = []
    for text in options.interrupt_at:
        if text == "random":
            seconds = generator.uniform(0.0, latest_seconds)
        else:
            seconds = parse_seconds(text, "--interrupt-at", " or 'random'")
        interruptions.append(
            Interruption(
                Moment(seconds),
                generator.choice(kinds),
                grace_seconds,
                host=generator.choice(hosts.names) if options.interrupt_host == "random" else options.interrupt_host,
                rank=generator.randint(0, _LAST_RANK),
                amount=amount,
                duration_seconds=duration,
            )
        )
    return tuple(interruptions)


def parse_count(text: str, option: str) -> int:
    """Return a positive integer.

    Raises:
        RequestError: It is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise RequestError(f"{option} {text}: expected an integer of at least 1")
    return int(text)


def parse_seconds(text: str, option: str, alternative: str = "") -> float:
    """Return a number of seconds.

    Raises:
        RequestError: It is none.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise RequestError(f"{option} {text}: expected a non-negative number of seconds{alternative}")
    return seconds


def _parse_world(text: str) -> World:
    hosts, has_processes, processes = text.partition("x")
    option = f"--restart-with {text}, such as 2x4 for 2 hosts with 4 processes:"
    return World(parse_count(hosts, option), parse_count(processes, option) if has_processes else None)


def _parse_kinds(text: str, hosts: Hosts) -> tuple[tuple[Kind, ...], float | None]:
    """Return the kinds to draw from, and the amount."""
    if text == "random":
        return (_RANDOM_KINDS if hosts.count == 1 else _RANDOM_KINDS_OF_SEVERAL_HOSTS), None
    name, has_amount, amount = text.partition("=")
    if name not in _KINDS or (has_amount and name not in DEFAULT_AMOUNTS):
        raise RequestError(f"--interruption {text}: expected {_describe(_KINDS)} or random")
    if name in LINK_KINDS and hosts.count == 1:
        raise RequestError(f"--interruption {name} disturbs the network of one of several hosts; add --hosts")
    try:
        number = float(amount) if has_amount else None
    except ValueError:
        number = -1.0
    if number is not None and not (0.0 < number < math.inf and (name != "loss" or number <= 100.0)):
        limit = " of at most 100" if name == "loss" else ""
        raise RequestError(f"--interruption {text}: expected a positive number{limit} after {name}=")
    return (cast(Kind, name),), number


def _describe(kinds: Sequence[str]) -> str:
    return ", ".join(f"{kind}=AMOUNT" if kind in DEFAULT_AMOUNTS else kind for kind in kinds)
