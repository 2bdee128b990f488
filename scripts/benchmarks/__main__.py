"""Which measurement is asked for?"""

from __future__ import annotations

import argparse
import sys

from benchmarks import features, observe, pipe, resume

MEASUREMENTS = {
    "features": (features.main, "what frozen layers cost over several epochs, beside the Trainer and one bare pass"),
    "observe": (observe.main, "what rules, clocks and metrics cost"),
    "pipe": (pipe.main, "how close to the speed of the pipe itself records are cut out of it"),
    "resume": (resume.main, "what a restart, a checkpoint and a SIGTERM cost, beside transformers' Trainer"),
}


def main() -> int:
    """Run one measurement."""
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="measurement", required=True)
    for name, (_, meaning) in MEASUREMENTS.items():
        commands.add_parser(name, help=meaning)
    measurement, _ = MEASUREMENTS[parser.parse_args().measurement]
    measurement()
    return 0


if __name__ == "__main__":
    sys.exit(main())
