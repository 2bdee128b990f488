"""The SDK's own RecordIO reader, run by the Python of the environment `sdk-v2`: one FIFO path per input line.

Prints the SDK's version, then seconds and number of records for each FIFO.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version


def main() -> None:
    """Read the given FIFOs until the end of the input."""
    answers, sys.stdout = sys.stdout, sys.stderr  # The SDK prints messages when it is imported.
    from sagemaker.amazon.common import read_recordio

    print(version("sagemaker"), file=answers, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        with open(line.strip(), "rb") as file:  # noqa: PTH123 - as its users do
            count = sum(1 for _ in read_recordio(file))
        print(time.perf_counter() - began, count, file=answers, flush=True)


if __name__ == "__main__":
    main()
