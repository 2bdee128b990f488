"""Runs a module of `benchmarks` in its own process, and prints the peak of the GPU memory that it allocated.

Arguments: module, settings of the module as JSON.
"""

from __future__ import annotations

import importlib
import sys

from gpu_check.jobs import peak_mib

PEAK = "peak GPU memory, MiB:"


def main() -> None:
    """Run the module."""
    module, settings = sys.argv[1:]
    sys.argv = [module, settings]
    importlib.import_module(module).main()
    peak = peak_mib()
    if peak is not None:
        sys.stdout.write(f"{PEAK} {peak}\n")


if __name__ == "__main__":
    main()
