"""Decodes images and runs them through a model once, as a lower bound on the cost of features.

It uses our own decoder, the fastest known here, with as many threads as the model, and the memory layout that is
fastest for the model.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import torch
from torchvision.models import get_model

from benchmarks.sides import PASS_BEGINS, PASS_DONE, tell
from finetune.config.hyperparameters import Precision
from finetune.data.transforms.image import ImageGeometry, decode_image, resize_and_crop
from finetune.runtime.precision import choose_numerics

_BATCH = 32
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _precision(name: str) -> Precision:
    return next(value for value in get_args(Precision) if value == name)


def main() -> None:
    """Arguments: images, model, its weights, precision."""
    images, name, weights, precision = sys.argv[1:]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    numerics = choose_numerics(_precision(precision), device)
    model = get_model(name, weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model = model.eval().to(device, memory_format=torch.channels_last)
    mean, deviation = (torch.tensor(value, device=device).view(3, 1, 1) * 255 for value in (_MEAN, _DEVIATION))
    geometry = ImageGeometry(224, 256, "bilinear")
    files = sorted(Path(images).rglob("*.jpg"))
    tell(PASS_BEGINS)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        pixels = list(pool.map(lambda path: resize_and_crop(decode_image(path.read_bytes()), geometry), files))
    with torch.inference_mode(), numerics.context():
        for start in range(0, len(pixels), _BATCH):
            batch = torch.stack(pixels[start : start + _BATCH]).to(device, memory_format=torch.channels_last)
            features = model((batch.float() - mean) / deviation)
    features.sum().item()
    tell(PASS_DONE)


if __name__ == "__main__":
    main()
