"""Runs the benchmarks of docs/benchmarks.md."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import get_args

from benchmarks import dropped, frozen, learning, machine, observe, process, resume, seeds, start
from benchmarks.pipe import run as pipe
from benchmarks.scale import Scale, scale_of
from finetune.config.hyperparameters import Precision

SCALED: dict[str, tuple[Callable[[Scale], None], str]] = {
    "features": (frozen.measure, "what frozen layers cost over several epochs, beside the Trainer and one bare pass"),
    "partial": (learning.measure_partial, "what training the last layers costs, beside the Trainer"),
    "full": (learning.measure_full, "what training all layers costs, beside the Trainer and a bare loop"),
    "start": (start.measure, "from the start of the process to the first step, beside the Trainer"),
    "seeds": (seeds.measure, "accuracy over several seeds, with kept features and without"),
    "dropout": (dropped.measure, "what a step of texts costs on a CPU with our dropout, and with PyTorch's"),
    "process": (process.measure, "what jobs gain by how their process uses memory and threads, beside other work too"),
}
_AMOUNTS = [one.name for one in fields(Scale) if type(one.default) is int]


def main() -> int:
    """Run one benchmark, or all whose size can be changed."""
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="measurement", required=True)
    _add_others(commands)
    everything = f"all of these: {', '.join(SCALED)}"
    for name, meaning in {**{name: one[1] for name, one in SCALED.items()}, "all": everything}.items():
        command = commands.add_parser(name, help=meaning)
        command.add_argument("--quick", action="store_true", help="only see that it runs; the figures mean nothing")
        command.add_argument("--long", action="store_true", help="run what is otherwise computed from fewer epochs")
        command.add_argument("--cores", type=int, help="cores for every side; by default two, and all beside a GPU")
        command.add_argument(
            "--precision", choices=get_args(Precision), default="auto", help="of our jobs and bare ones"
        )
        command.add_argument("--trainer-bf16", action="store_true", help="tell the Trainer to compute in bf16")
        command.add_argument("--models", nargs="+", choices=Scale().models, help="where features are extracted")
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
    given = {name: value for name in _AMOUNTS if (value := getattr(chosen, name)) is not None}
    arithmetic = {"precision": chosen.precision, "trainer_bf16": chosen.trainer_bf16}
    models = tuple(chosen.models or scale.models)
    scale = replace(scale, long=scale.long or chosen.long, models=models, **arithmetic, **given)
    machine.keep_to_cores(chosen.cores)
    for name in SCALED if chosen.measurement == "all" else (chosen.measurement,):
        SCALED[name][0](scale)
        sys.stdout.write("\n")


def _add_others(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("observe", help="what rules, smdebug's hook, clocks and metrics cost")
    command.add_argument("--quick", action="store_true", help="only see that it runs; the figures mean nothing")
    command.set_defaults(run=lambda chosen: observe.main(quick=chosen.quick))
    command = commands.add_parser("resume", help="what a restart, a checkpoint and a SIGTERM cost, beside the Trainer")
    command.add_argument("--quick", action="store_true", help="only see that it runs; the figures mean nothing")
    command.set_defaults(run=lambda chosen: resume.main(quick=chosen.quick))
    command = commands.add_parser("pipe", help="what Pipe mode costs, beside the pipe and what others read it with")
    command.add_argument("--part", action="append", dest="parts", choices=pipe.PARTS, help="not all of them")
    command.add_argument("--quick", action="store_true", help="as little as shows that the script works")
    command.set_defaults(run=lambda chosen: pipe.main(chosen.parts, quick=chosen.quick))


if __name__ == "__main__":
    sys.exit(main())
