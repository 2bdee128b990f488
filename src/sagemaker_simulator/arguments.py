"""Parses the command line into a job and its interruptions."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sagemaker_simulator.configuration import Channel, RequestError, Resources, TrainingRequest
from sagemaker_simulator.container import Container, gpu_options
from sagemaker_simulator.environment import image_path
from sagemaker_simulator.host_arguments import (
    add_host_options,
    add_interruption_options,
    parse_count,
    parse_hosts,
    parse_interruptions,
    parse_seconds,
    parse_worlds,
)
from sagemaker_simulator.interruptions import Interruption
from sagemaker_simulator.pipe_arguments import add_pipe_options, parse_deliveries
from sagemaker_simulator.plan import TrainingJob, World
from sagemaker_simulator.process import toolkit_command
from sagemaker_simulator.storage import Storage
from sagemaker_simulator.sync_agent import SyncOptions

_DESCRIPTION = """\
Run a training job locally as on SageMaker, with or without Docker: with a new /opt/ml, the platform's configuration
files and environment variables, checkpoints synchronized with a folder that represents S3, and model.tar.gz and
output.tar.gz at the end. Ctrl-C stops the job like StopTrainingJob; a second Ctrl-C kills it."""

_EPILOG = """\
examples:
  run-local --channel train=data/train --hyperparameter epochs=3
  run-local --channel train=reviews.csv --content-type train=text/csv --output my-job
  run-local --channel train=data --interrupt-at 20 --interrupt-at random --interruption reclaim
  run-local --channel train=data --image finetune:0.2.0
  run-local --channel train=train.jsonl --content-type train=application/jsonlines --input-mode Pipe
  run-local --channel train=shards --channel validation=images --input-mode train=Pipe --shuffle-seed 7
  run-local --channel train=data --hosts 2 --processes-per-host 2 --interrupt-at 20 --interrupt-host algo-2
  run-local --channel train=data --hosts 2 --interrupt-at random --interrupt-at random --restart-with random
  run-local --channel train=data -- python train.py"""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Parsed command line.

    Attributes:
        job: The job.
        machine: Folder used as its `/opt/ml`.
        interruptions: Interruptions of its starts.
        worlds: Number of hosts and processes of its restarts.
        grace_seconds: Seconds between SIGTERM and SIGKILL.
        seed: Seed of all random choices.
    """

    job: TrainingJob
    machine: Path
    interruptions: tuple[Interruption, ...]
    worlds: tuple[World, ...]
    grace_seconds: float
    seed: int


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """Parse the command line.

    Raises:
        RequestError: The request is not supported.
        SystemExit: `--help`, or arguments rejected by argparse.
    """
    options = _build_parser().parse_args(arguments)
    now = datetime.now(tz=UTC)
    name = options.job_name or f"local-{now:%Y-%m-%d-%H-%M-%S}"
    output = (options.output or Path("local-jobs") / name).absolute()
    if output.exists() and any(output.iterdir()):
        raise RequestError(f"--output {output}: the folder is not empty; choose another folder, or empty it")
    hosts = parse_hosts(options)
    worlds = parse_worlds(options, hosts.count)
    interruptions = parse_interruptions(options, hosts)
    command = tuple(options.command)
    container = _build_container(options)
    program, path = ("docker", None) if container else (command[0] if command else "", image_path())
    if program and shutil.which(program, path=path) is None:
        raise RequestError(f"command {program!r} was not found or is not executable")
    job = TrainingJob(
        request=_build_request(options, name),
        command=command or (("train",) if container else toolkit_command()),
        storage=Storage(output / "s3"),
        sync=SyncOptions(seed=options.seed, mirror_deletions=options.mirror_deletions),
        echo=None if options.quiet else sys.stdout,
        working_folder=Path.cwd() if command else None,
        container=container,
        hosts=hosts,
    )
    if options.processes_per_host is not None:
        job = job.in_world(World(hosts.count, parse_count(options.processes_per_host, "--processes-per-host")))
    grace = parse_seconds(options.grace, "--grace")
    return CommandLine(job, output / "opt-ml", interruptions, worlds, grace, options.seed)


def _build_request(options: argparse.Namespace, name: str) -> TrainingRequest:
    content_types = _parse_pairs(options.content_type, "--content-type", "CHANNEL=TYPE")
    sources = _parse_pairs(options.channel, "--channel", "NAME=PATH")
    unknown = sorted(content_types.keys() - sources.keys())
    if unknown:
        raise RequestError(
            f"--content-type {unknown[0]}=...: no channel {unknown[0]!r}; add --channel {unknown[0]}=PATH"
        )
    deliveries = parse_deliveries(options, sources)
    environment = _parse_pairs(options.env, "--env", "NAME=VALUE")
    if options.module and not options.command and options.image is None:
        environment.setdefault("SAGEMAKER_TRAINING_MODULE", options.module)
    if not options.command and options.image is None and "SAGEMAKER_TRAINING_MODULE" not in environment:
        raise RequestError("nothing to run: set --module MODULE:FUNCTION, or add a command after --")
    return TrainingRequest(
        name=name,
        channels=tuple(
            Channel(
                channel,
                Path(path),
                "copy" if options.copy else "link",
                content_types.get(channel),
                deliveries[channel].distribution,
                deliveries[channel].pipe,
                deliveries[channel].feeder_options,
            )
            for channel, path in sources.items()
        ),
        hyperparameters=_parse_pairs(options.hyperparameter, "--hyperparameter", "NAME=VALUE"),
        resources=_build_resources(
            max((delivery.shard for delivery in deliveries.values()), key=lambda shard: shard[1], default=(0, 1))
        ),
        environment=environment,
    )


def _build_resources(shard: tuple[int, int]) -> Resources:
    host, hosts = shard
    return Resources(tuple(f"algo-{number + 1}" for number in range(hosts)), f"algo-{host + 1}")


def _build_container(options: argparse.Namespace) -> Container | None:
    if options.image is None:
        unsupported = next((name for name in ("network", "shm_size") if getattr(options, name) is not None), None)
        if unsupported:
            raise RequestError(f"--{unsupported.replace('_', '-')} applies only to jobs in a container; add --image")
        return None
    return Container(options.image, options.network or "none", options.shm_size or "1g", gpu_options())


def _parse_pairs(texts: Sequence[str], option: str, usage: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise RequestError(f"{option} {text}: expected {option} {usage}")
        if name in pairs:
            raise RequestError(f"{option} {name}=... is given more than once")
        pairs[name] = value
    return pairs


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run-local",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_job_options(parser)
    add_pipe_options(parser)
    add_host_options(parser)
    _add_container_options(parser)
    add_interruption_options(parser)
    parser.add_argument("command", nargs="*", help="command to run instead of the image's `train`, after --")
    return parser


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("job")
    for flags, metavar, description in (
        (("--channel", "-c"), "NAME=PATH", "input channel: folder or file"),
        (("--content-type",), "CHANNEL=TYPE", "content type of a channel"),
        (("--hyperparameter", "-p"), "NAME=VALUE", "hyperparameter, passed as a string"),
        (("--env", "-e"), "NAME=VALUE", "environment variable of the container"),
    ):
        group.add_argument(*flags, metavar=metavar, action="append", default=[], help=f"{description} (repeatable)")
    group.add_argument(
        "--module", metavar="MODULE:FUNCTION", help="function called by `train` (SAGEMAKER_TRAINING_MODULE)"
    )
    group.add_argument("--job-name", metavar="NAME", help="name of the job (default: local-TIME)")
    group.add_argument("--output", metavar="DIR", type=Path, help="new or empty folder (default: local-jobs/JOB-NAME)")
    group.add_argument("--copy", action="store_true", help="copy the channels' data instead of linking to it")
    group.add_argument("--quiet", action="store_true", help="write the job's log only to its file")


def _add_container_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("container, with the machine's GPUs if Docker supports them")
    group.add_argument("--image", metavar="NAME", help="run `train` of this image with Docker")
    group.add_argument("--network", metavar="NAME", help="Docker network (default: none)")
    group.add_argument("--shm-size", metavar="SIZE", help="size of /dev/shm (default: 1g)")
