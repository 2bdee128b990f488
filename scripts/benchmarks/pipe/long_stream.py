"""A process that loads all pictures of a stream, and prints what memory it took before it began, and the most ever.

Both in KiB, as the kernel tells them of this program alone: `ru_maxrss` would begin with the most that the process had
which started it.
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
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the kernel tells no {name}")
    return int(found[1])


if __name__ == "__main__":
    main()
