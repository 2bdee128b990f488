"""A process that loads all pictures of a stream, and prints the most memory that it ever had, in KiB."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from benchmarks.pipe.loading import loader


def main() -> None:
    """The argument is the folder of the FIFO."""
    for _ in loader(Path(sys.argv[1])).iterate(0):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
