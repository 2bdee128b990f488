"""Which measurement is asked for?"""

from __future__ import annotations

import argparse
import sys

from benchmarks import features, observe, resume
from benchmarks.pipe import run as pipe

MEASUREMENTS = {
    "features": (features.main, "what frozen layers cost over several epochs, beside the Trainer and one bare pass"),
    "observe": (observe.main, "what rules, clocks and metrics cost"),
    "pipe": (pipe.main, "what Pipe mode costs, beside the pipe itself and what others read it with"),
    "resume": (resume.main, "what a restart, a checkpoint and a SIGTERM cost, beside transformers' Trainer"),
}


def main() -> int:
    """Run one measurement."""
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="measurement", required=True)
    for name, (_, meaning) in MEASUREMENTS.items():
        command = commands.add_parser(name, help=meaning)
        if name == "pipe":
            command.add_argument("--part", action="append", dest="parts", choices=pipe.PARTS, help="not all of them")
            command.add_argument("--quick", action="store_true", help="as little as shows that the script works")
    options = vars(parser.parse_args())
    measurement, _ = MEASUREMENTS[options.pop("measurement")]
    measurement(**options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
