"""Parses the command line into a job and its interruptions."""

from __future__ import annotations

import argparse
import math
import random
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sagemaker_simulator.configuration import Channel, RequestError, Resources, TrainingRequest
from sagemaker_simulator.container import Container, gpu_options
from sagemaker_simulator.environment import image_path
from sagemaker_simulator.interruptions import GRACE_SECONDS, Interruption, Moment
from sagemaker_simulator.pipe_arguments import add_pipe_options, deliveries
from sagemaker_simulator.plan import TrainingJob
from sagemaker_simulator.process import toolkit_command
from sagemaker_simulator.storage import Storage
from sagemaker_simulator.sync_agent import SyncOptions

_DESCRIPTION = """\
Run a training job on this machine as SageMaker would run it in the image, with or without Docker: a fresh /opt/ml in a
folder, the platform's configuration files and environment, checkpoints copied to a folder that stands for S3, and
model.tar.gz and output.tar.gz at the end. Ctrl-C stops the job as StopTrainingJob does, a second Ctrl-C kills it."""

_EPILOG = """\
examples:
  run-local --channel train=data/train --hyperparameter epochs=3
  run-local --channel train=reviews.csv --content-type train=text/csv --output my-job
  run-local --channel train=data --interrupt-at 20 --interrupt-at random --interruption reclaim
  run-local --channel train=data --image finetune:0.2.0
  run-local --channel train=train.jsonl --content-type train=application/jsonlines --input-mode Pipe
  run-local --channel train=shards --channel validation=pictures --input-mode train=Pipe --shuffle-seed 7
  run-local --channel train=data -- python train.py"""


@dataclass(frozen=True, slots=True)
class Order:
    """Parsed command line.

    Attributes:
        job: The job.
        machine: Folder used as its `/opt/ml`.
        interruptions: Interruptions of its starts.
        grace_seconds: Seconds between SIGTERM and SIGKILL.
        seed: Seed of all random choices.
    """

    job: TrainingJob
    machine: Path
    interruptions: tuple[Interruption, ...]
    grace_seconds: float
    seed: int


def read_order(arguments: Sequence[str]) -> Order:
    """Parse the command line.

    Raises:
        RequestError: The request is not supported.
        SystemExit: `--help`, or arguments rejected by argparse.
    """
    options = _parser().parse_args(arguments)
    now = datetime.now(tz=UTC)
    name = options.job_name or f"local-{now:%Y-%m-%d-%H-%M-%S}"
    place = (options.output or Path("local-jobs") / name).absolute()
    if place.exists() and any(place.iterdir()):
        raise RequestError(f"--output {place}: the folder is not empty; give another one, or empty it")
    command = tuple(options.command)
    container = _container(options)
    program, path = ("docker", None) if container else (command[0] if command else "", image_path())
    if program and shutil.which(program, path=path) is None:
        raise RequestError(f"the command {program!r} was not found, or is not executable")
    job = TrainingJob(
        request=_request(options, name),
        command=command or (("train",) if container else toolkit_command()),
        storage=Storage(place / "s3"),
        sync=SyncOptions(seed=options.seed),
        echo=None if options.quiet else sys.stdout,
        working_folder=Path.cwd() if command else None,
        container=container,
    )
    grace = _seconds(options.grace, "--grace")
    return Order(job, place / "opt-ml", _interruptions(options, grace), grace, options.seed)


def _request(options: argparse.Namespace, name: str) -> TrainingRequest:
    content_types = _pairs(options.content_type, "--content-type", "CHANNEL=TYPE")
    sources = _pairs(options.channel, "--channel", "NAME=PATH")
    unknown = sorted(content_types.keys() - sources.keys())
    if unknown:
        raise RequestError(f"--content-type {unknown[0]}=...: there is no channel {unknown[0]!r}")
    coming = deliveries(options, sources)
    environment = _pairs(options.env, "--env", "NAME=VALUE")
    if options.module and not options.command and options.image is None:
        environment.setdefault("SAGEMAKER_TRAINING_MODULE", options.module)
    if not options.command and options.image is None and "SAGEMAKER_TRAINING_MODULE" not in environment:
        raise RequestError("nothing to run: give --module MODULE:FUNCTION, or a command after --")
    return TrainingRequest(
        name=name,
        channels=tuple(
            Channel(
                channel,
                Path(path),
                "copy" if options.copy else "link",
                content_types.get(channel),
                coming[channel].distribution,
                coming[channel].pipe,
                coming[channel].manners,
            )
            for channel, path in sources.items()
        ),
        hyperparameters=_pairs(options.hyperparameter, "--hyperparameter", "NAME=VALUE"),
        resources=_resources(max((one.shard for one in coming.values()), key=lambda shard: shard[1], default=(0, 1))),
        environment=environment,
    )


def _resources(shard: tuple[int, int]) -> Resources:
    host, hosts = shard
    return Resources(tuple(f"algo-{number + 1}" for number in range(hosts)), f"algo-{host + 1}")


def _container(options: argparse.Namespace) -> Container | None:
    if options.image is None:
        given = next((name for name in ("network", "shm_size") if getattr(options, name) is not None), None)
        if given:
            raise RequestError(f"--{given.replace('_', '-')} is for jobs in a container: give --image as well")
        return None
    return Container(options.image, options.network or "none", options.shm_size or "1g", gpu_options())


def _interruptions(options: argparse.Namespace, grace: float) -> tuple[Interruption, ...]:
    generator = random.Random(options.seed)  # noqa: S311 - a schedule, not a secret
    within = _seconds(options.within, "--within")
    found = []
    for given in options.interrupt_at:
        drawn = given == "random"
        seconds = generator.uniform(0.0, within) if drawn else _seconds(given, "--interrupt-at", ", or 'random',")
        found.append(Interruption(Moment(seconds), options.interruption, grace))
    return tuple(found)


def _seconds(text: str, option: str, otherwise: str = "") -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise RequestError(f"{option} {text}: a number of seconds from 0 on{otherwise} is expected")
    return seconds


def _pairs(given: Sequence[str], option: str, form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise RequestError(f"{option} {text}: the form is {option} {form}")
        if name in pairs:
            raise RequestError(f"{option} {name}=... is given more than once")
        pairs[name] = value
    return pairs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run-local",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_job_options(parser)
    add_pipe_options(parser)
    _add_container_options(parser)
    _add_interruption_options(parser)
    parser.add_argument("command", nargs="*", help="a command to run after -- instead of the image's `train`")
    return parser


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    job = parser.add_argument_group("the job")
    for flags, form, meaning in (
        (("--channel", "-c"), "NAME=PATH", "folder or file as input channel"),
        (("--content-type",), "CHANNEL=TYPE", "content type of a channel"),
        (("--hyperparameter", "-p"), "NAME=VALUE", "passed to the job as text"),
        (("--env", "-e"), "NAME=VALUE", "environment variable of the container"),
    ):
        job.add_argument(*flags, metavar=form, action="append", default=[], help=f"{meaning} (repeatable)")
    job.add_argument("--module", metavar="MODULE:FUNCTION", help="what `train` calls (SAGEMAKER_TRAINING_MODULE)")
    job.add_argument("--job-name", metavar="NAME", help="default: local- and the time")
    job.add_argument("--output", metavar="DIR", type=Path, help="new or empty folder; default: local-jobs/JOB-NAME")
    job.add_argument("--copy", action="store_true", help="copy the channels' data instead of linking to them")
    job.add_argument("--quiet", action="store_true", help="keep the job's log in its file only")


def _add_container_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("in a container, with the machine's GPUs where Docker can lend them")
    group.add_argument("--image", metavar="NAME", help="run `train` of this image by docker, not here")
    group.add_argument("--network", metavar="NAME", help="Docker's; default: none")
    group.add_argument("--shm-size", metavar="SIZE", help="of /dev/shm; default: 1g")


def _add_interruption_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("spot interruptions")
    group.add_argument(
        "--interrupt-at",
        metavar="SECONDS",
        action="append",
        default=[],
        help="interrupt a start of the job after so many seconds, or at a 'random' moment, and start it again on a "
        "fresh machine with its checkpoints (repeatable: one for each start)",
    )
    group.add_argument(
        "--interruption",
        choices=("kill", "reclaim", "reclaim_twice"),
        default="kill",
        help="kill: the machine is gone at once; reclaim: SIGTERM first, the machine is gone after the grace time; "
        "reclaim_twice: with a second SIGTERM (default: %(default)s)",
    )
    group.add_argument("--within", metavar="SECONDS", default="60", help="of 'random' (default: %(default)s)")
    group.add_argument("--grace", metavar="SECONDS", default=f"{GRACE_SECONDS:g}", help="default: %(default)s")
    group.add_argument(
        "--seed", type=int, default=secrets.randbelow(1 << 32), help="of 'random'; default: another each time"
    )
