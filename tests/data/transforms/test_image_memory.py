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


def encoded(mode: str, kind: str = "PNG", **options: object) -> bytes:
    noise = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (57, 41, 4), dtype=np.uint8)
    image = Image.fromarray(noise)
    file = io.BytesIO()
    (image if mode == "RGBA" else image.convert("RGB").convert(mode)).save(file, kind, **options)
    return file.getvalue()


CONTENTS = {
    "RGBA": encoded("RGBA"),
    "RGB": encoded("RGB"),
    "palette with transparency": encoded("P", transparency=4),
    "grey with alpha": encoded("LA"),
    "CMYK": encoded("CMYK", "TIFF"),
    "1": encoded("1"),
    "GIF": encoded("P", "GIF"),
    "WebP": encoded("RGBA", "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_band_conversion_gives_same_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decode_image(CONTENTS[name])
    monkeypatch.setattr(images, "_BAND_PIXELS", 41 * 10)
    monkeypatch.setattr(inference, "BAND_PIXELS", 41 * 9)
    assert torch.equal(decode_image(CONTENTS[name]), whole)
    assert torch.equal(inference.decode_picture(CONTENTS[name]), whole)


def test_huge_images_are_decoded_sequentially(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_SMALL_IMAGE_BYTES", 0)
    monkeypatch.setattr(images, "DECODING_MEMORY", images._MemoryLimit(41 * 57 * 8 + 1))
    lock, inside, most = threading.Lock(), 0, 0

    def finish(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.02)
        with lock:
            inside -= 1
        return pixels

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: decode_image(CONTENTS["RGBA"], finish=finish), range(8)))
    assert most == 1


def test_memory_is_released_after_damaged_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_SMALL_IMAGE_BYTES", 0)
    monkeypatch.setattr(images, "DECODING_MEMORY", images._MemoryLimit(1000))
    for _ in range(3):
        with pytest.raises(BadRecordError):
            decode_image(CONTENTS["RGB"][:1000])
    assert decode_image(CONTENTS["RGB"]).shape == (3, 57, 41)
