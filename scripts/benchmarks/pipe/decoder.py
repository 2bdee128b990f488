"""Holds images in memory and decodes them on request, as an upper bound on the speed of two cores."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.pipe.decoding import GEOMETRY
from finetune.data.formats.image_records import read_image_record
from finetune.data.framing.recordio import read_recordio
from finetune.data.framing.window import Window
from finetune.data.transforms.base import ImageTransform


def main() -> None:
    """Arguments: a stream of image records, and how many times all of them are decoded."""
    stream, times = Path(sys.argv[1]).read_bytes(), float(sys.argv[2])
    images = [bytes(read_image_record(payload)[1]) for payload in read_recordio(Window([stream]))]
    torch.set_num_threads(1)
    transform = ImageTransform(GEOMETRY, "none")
    print("ready", flush=True)
    for _ in sys.stdin:
        for number in range(round(times * len(images))):
            transform(images[number % len(images)], None)
        print("done", flush=True)


if __name__ == "__main__":
    main()
