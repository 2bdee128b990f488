"""Loads all images of a stream, and prints the memory used at the start and the peak.

Both in KiB, from the kernel's statistics of this program alone: `ru_maxrss` would start with the peak of the parent
process.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks.pipe.loading import loader


def main() -> None:
    """The argument is the folder of the FIFO."""
    batches = loader(Path(sys.argv[1]))
    before = _kib("VmRSS")
    for _ in batches.iterate(0):
        pass
    print(before, _kib("VmHWM"))


def _kib(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError(f"the kernel does not report {name}")
    return int(match[1])


if __name__ == "__main__":
    main()
