"""Runs the benchmarks of docs/benchmarks.md."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import get_args

from benchmarks import (
    devices,
    dropped,
    fine_tuning,
    frozen,
    machine,
    observe,
    process,
    resume,
    seeds,
    sharded,
    start,
)
from benchmarks.learning import run as learning
from benchmarks.learning.methods import METHODS
from benchmarks.learning.tasks import TASKS
from benchmarks.pipe import run as pipe
from benchmarks.scale import Scale, scale_of
from benchmarks.serving import run as serving
from finetune.config.hyperparameters import Precision

SCALED: dict[str, tuple[Callable[[Scale], None], str]] = {
    "features": (frozen.measure, "cost of frozen layers, compared with the Trainer and one bare pass"),
    "partial": (fine_tuning.measure_partial, "cost of training the last layers, compared with the Trainer"),
    "full": (fine_tuning.measure_full, "cost of training all layers, compared with the Trainer and a bare loop"),
    "start": (start.measure, "time from process start to the first step, compared with the Trainer"),
    "seeds": (seeds.measure, "accuracy over several seeds, with and without cached features"),
    "dropout": (dropped.measure, "cost of a text training step on a CPU with our dropout and with PyTorch's"),
    "process": (process.measure, "effect of the process settings for memory and threads, also next to other load"),
}
_AMOUNTS = [one.name for one in fields(Scale) if type(one.default) is int]


def main() -> int:
    """Run one benchmark, or all whose size can be changed."""
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="measurement", required=True)
    _add_others(commands)
    all_names = f"all of these: {', '.join(SCALED)}"
    for name, meaning in {**{name: one[1] for name, one in SCALED.items()}, "all": all_names}.items():
        command = commands.add_parser(name, help=meaning)
        command.add_argument("--quick", action="store_true", help="smoke test; the figures are meaningless")
        command.add_argument("--long", action="store_true", help="run long jobs instead of extrapolating")
        command.add_argument("--cores", type=int, help="cores per side (default: 2, or all with a GPU)")
        command.add_argument(
            "--precision", choices=get_args(Precision), default="auto", help="of our jobs and bare ones"
        )
        command.add_argument("--trainer-bf16", action="store_true", help="run the Trainer in bf16")
        command.add_argument("--models", nargs="+", choices=Scale().models, help="models for feature extraction")
        for amount in _AMOUNTS:
            command.add_argument(f"--{amount.replace('_', '-')}", type=int)
        command.set_defaults(run=_beside_the_trainer)
    chosen = parser.parse_args()
    # Exit cleanly: commands paused between their turns would otherwise stay paused forever.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen.run(chosen)
    return 0


def _beside_the_trainer(chosen: argparse.Namespace) -> None:
    scale = scale_of(quick=chosen.quick)
    sizes = {name: value for name in _AMOUNTS if (value := getattr(chosen, name)) is not None}
    arithmetic = {"precision": chosen.precision, "trainer_bf16": chosen.trainer_bf16}
    models = tuple(chosen.models or scale.models)
    scale = replace(scale, long=scale.long or chosen.long, models=models, **arithmetic, **sizes)
    machine.keep_to_cores(chosen.cores)
    for name in SCALED if chosen.measurement == "all" else (chosen.measurement,):
        SCALED[name][0](scale)
        sys.stdout.write("\n")


def _add_others(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("observe", help="cost of rules, smdebug's hook, timing and metrics")
    command.add_argument("--quick", action="store_true", help="smoke test; the figures are meaningless")
    command.set_defaults(run=lambda chosen: observe.main(quick=chosen.quick))
    command = commands.add_parser("devices", help="cost and gain of several processes and virtual devices")
    command.add_argument("--quick", action="store_true", help="smoke test; the figures are meaningless")
    command.set_defaults(run=lambda chosen: devices.main(quick=chosen.quick))
    command = commands.add_parser("resume", help="cost of restart, checkpoint and SIGTERM, compared with the Trainer")
    command.add_argument("--quick", action="store_true", help="smoke test; the figures are meaningless")
    command.set_defaults(run=lambda chosen: resume.main(quick=chosen.quick))
    command = commands.add_parser(
        "sharded", help="peak memory per process of a sharded model, compared with a plain one"
    )
    command.add_argument("--quick", action="store_true", help="smoke test; the figures are meaningless")
    command.set_defaults(run=lambda chosen: sharded.main(quick=chosen.quick))
    command = commands.add_parser("serving", help="the server, compared with AWS's model server and bare scripts")
    command.add_argument("--part", action="append", dest="parts", choices=serving.PARTS, help="not all of them")
    command.add_argument("--overload", type=float, default=0.0, metavar="MINUTES", help="only the overload, this long")
    command.add_argument("--quick", action="store_true", help="smoke test; the figures are meaningless")
    command.set_defaults(
        run=lambda chosen: serving.main(chosen.parts, overload_minutes=chosen.overload, quick=chosen.quick)
    )
    command = commands.add_parser("learning", help="accuracy with default settings, compared with other tools")
    command.add_argument("--task", action="append", dest="tasks", choices=[one.name for one in TASKS])
    command.add_argument("--method", action="append", dest="methods", choices=[one.name for one in METHODS])
    command.add_argument("--minutes", type=float, default=600.0, help="begin no further result after this time")
    command.add_argument("--quick", action="store_true", help="one small task, without other tools")
    command.set_defaults(
        run=lambda chosen: learning.main(chosen.tasks or (), chosen.methods or (), chosen.minutes, quick=chosen.quick)
    )
    command = commands.add_parser("pipe", help="cost of Pipe mode, compared with the pipe alone and other readers")
    command.add_argument("--part", action="append", dest="parts", choices=pipe.PARTS, help="not all of them")
    command.add_argument("--quick", action="store_true", help="smoke test with little data")
    command.set_defaults(run=lambda chosen: pipe.main(chosen.parts, quick=chosen.quick))


if __name__ == "__main__":
    sys.exit(main())
