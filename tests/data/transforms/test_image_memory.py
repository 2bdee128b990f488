"""Decoding huge images takes bounded memory and gives correct pixels."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.bad_records import BadRecordError
from finetune.data.transforms import image as images
from finetune.data.transforms.image import decode_image
from finetune.export import inference


def encode(mode: str, kind: str = "PNG", **options: object) -> bytes:
    noise = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (57, 41, 4), dtype=np.uint8)
    image = Image.fromarray(noise)
    file = io.BytesIO()
    (image if mode == "RGBA" else image.convert("RGB").convert(mode)).save(file, kind, **options)
    return file.getvalue()


CONTENTS = {
    "RGBA": encode("RGBA"),
    "RGB": encode("RGB"),
    "palette with transparency": encode("P", transparency=4),
    "grey with alpha": encode("LA"),
    "CMYK": encode("CMYK", "TIFF"),
    "1": encode("1"),
    "GIF": encode("P", "GIF"),
    "WebP": encode("RGBA", "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_band_conversion_gives_same_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decode_image(CONTENTS[name])
    monkeypatch.setattr(images, "_BAND_PIXELS", 41 * 10)
    monkeypatch.setattr(inference, "BAND_PIXELS", 41 * 9)
    assert torch.equal(decode_image(CONTENTS[name]), expected)
    assert torch.equal(inference.decode_image(CONTENTS[name]), expected)


def test_huge_images_are_decoded_sequentially(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_SMALL_IMAGE_BYTES", 0)
    monkeypatch.setattr(images, "DECODING_MEMORY", images._MemoryLimit(41 * 57 * 8 + 1))
    lock, concurrent, max_concurrent = threading.Lock(), 0, 0

    def finish(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal concurrent, max_concurrent
        with lock:
            concurrent += 1
            max_concurrent = max(max_concurrent, concurrent)
        threading.Event().wait(0.02)
        with lock:
            concurrent -= 1
        return pixels

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: decode_image(CONTENTS["RGBA"], finish=finish), range(8)))
    assert max_concurrent == 1


def test_memory_is_released_after_damaged_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_SMALL_IMAGE_BYTES", 0)
    monkeypatch.setattr(images, "DECODING_MEMORY", images._MemoryLimit(1000))
    for _ in range(3):
        with pytest.raises(BadRecordError):
            decode_image(CONTENTS["RGB"][:1000])
    assert decode_image(CONTENTS["RGB"]).shape == (3, 57, 41)
