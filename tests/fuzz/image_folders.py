"""Folders of known images in all common formats and layouts, with one oddity each."""

from __future__ import annotations

import functools
import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from finetune.data.in_memory import InMemoryReader
from finetune.data.record import Record
from finetune.job.prepare import PreparedJob
from sagemaker_simulator import Channel, PipeSource
from tests.fuzz.oracle import Reference, Run, Situation
from tests.fuzz.running import decoded_records, production_warnings, read_records, shared_folder
from tests.support.tiny_transformers import write_folder

SIDE = 32
_MAX_DISTANCE = 12.0
"""Mean pixel difference below which an image counts as a known one; any two known ones differ by much more."""

Pixels = NDArray[np.uint8]


@dataclass
class Images:
    """Labeled images to be written into the channel `train`.

    Attributes:
        folder: the channel.
        draw: hypothesis' draw.
        records: labels that a reader should find, with the number of the image.
        piped: whether the channel is in Pipe mode.
    """

    folder: Path
    draw: Callable[[st.SearchStrategy[Any]], Any]
    records: list[tuple[str, int]] = field(default_factory=list)
    hyperparameters: dict[str, str] = field(default_factory=dict)
    content_type: str | None = None
    piped: bool = False
    has_reference: bool = True
    grey: bool = False

    def choose(self, values: Sequence[Any]) -> Any:  # noqa: ANN401 - any type
        """Draw one of some values."""
        return self.draw(st.sampled_from(list(values)))

    def put(self, key: str, content: bytes) -> None:
        """Write a file of the channel."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def add(self, key: str, content: bytes | None = None, label: str | None = None) -> int:
        """Write the next image as a PNG file, or as `content`; its class is its top folder."""
        number = len(self.records)
        self.put(key, png(number) if content is None else content)
        self.records.append((label or key.partition("/")[0], number))
        return number

    def fill(self, names: Sequence[str] = ("ash", "birch"), count: int = 4) -> None:
        """Write PNG files into class folders."""
        for name in names:
            for at in range(count):
                self.add(f"{name}/{at}.png")


@functools.cache
def pixels_of(number: int, *, grey: bool = False) -> Pixels:
    """The known image of a number: colored blocks, `[height, width, 3]`."""
    blocks = np.random.default_rng(number).integers(0, 256, size=(4, 4, 1 if grey else 3)).repeat(3 if grey else 1, 2)
    blocks[0, :2] = [[0], [255]]
    found: Pixels = blocks.astype(np.uint8).repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
    return found


def image_of(number: int, *, grey: bool = False) -> Image.Image:
    """The same as a Pillow image."""
    return Image.fromarray(pixels_of(number, grey=grey))


def encode_image(image: Image.Image, image_format: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's options
    """The image encoded as a file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def png(number: int) -> bytes:
    """The known image as PNG."""
    return encode_image(image_of(number), "PNG")


@functools.cache
def model() -> Path:
    """A small model for images of 32 by 32 pixels."""
    folder = shared_folder() / "vit"
    with production_warnings():
        return write_folder(folder, "vit", headless=True)


def new_case(root: Path, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Images:
    """An empty channel."""
    folder = root / "train"
    folder.mkdir()
    return Images(folder, draw)


def read(images: Images, root: Path) -> Run:
    """Open the channel as a job does; the value is a sorted list of classes and numbers of known images."""
    pipe = PipeSource() if images.piped else None
    channels = [
        Channel("train", images.folder, content_type=images.content_type, pipe=pipe),
        Channel("model", model()),
    ]
    settings = {"strategy": "feature_extraction", "validation_fraction": "0", "epochs": "1", **images.hyperparameters}
    reference_pixels = [pixels_of(number, grey=images.grey).astype(float) for _, number in images.records]
    return read_records(root, channels, settings, lambda job: _records(job, reference_pixels))


def _records(job: PreparedJob, reference_pixels: Sequence[NDArray[np.float64]]) -> object:
    """Every record as seen by the evaluation."""
    part, rebatch, stream = job.inputs.train, job.loaders.rebatch, job.inputs.streams.get("train")
    if rebatch is None:
        raise TypeError("nothing makes batches")
    if stream is not None:
        records = [
            Record(str(at), record.content, tuple(job.inputs.labels.resolve(label) or label for label in record.labels))
            for at, record in enumerate(decoded_records(job, stream.source))
        ]
        batches = rebatch(InMemoryReader("train", "image-classification", records))
    elif part is not None:
        batches = rebatch(part.reader)
    found = []
    for batch in batches.iterate(0):
        for target, pixels in zip(batch.targets.tolist(), batch.inputs["pixels"], strict=True):
            found.append(
                (job.inputs.labels.names[target], _recognized(pixels.permute(1, 2, 0).numpy(), reference_pixels))
            )
    return sorted(found, key=str)


def _recognized(pixels: Pixels, reference_pixels: Sequence[NDArray[np.float64]]) -> int | str:
    differences = [float(np.abs(pixels - expected).mean()) for expected in reference_pixels]
    nearest = int(np.argmin(differences))
    return nearest if differences[nearest] < _MAX_DISTANCE else f"unknown, {differences[nearest]:.0f} from {nearest}"


def reference(images: Images) -> Reference:
    """The written images."""
    if not images.has_reference:
        return Reference((), "nothing is right")
    return Reference((sorted(images.records, key=str),))


Mutation = Callable[[Images], Situation]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Register an oddity."""
    MUTATIONS[function.__name__] = function
    return function


# --- Formats and modes -----------------------------------------------------------------------------------------------

_READ = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_OTHERS = {"JPEG2000": ".jp2", "PPM": ".ppm", "ICO": ".ico", "TGA": ".tga", "PCX": ".pcx", "AVIF": ".avif"}


@mutation
def formats_and_endings(images: Images) -> Situation:
    images.fill()
    image_format = images.choose(_READ)
    ending = images.choose(
        (
            ".jpg",
            ".jpeg",
            ".JPG",
            ".jfif",
            ".jpe",
            ".png",
            ".webp",
            ".bmp",
            ".gif",
            ".tif",
            ".tiff",
            ".TIFF",
            ".dib",
            "",
            ".1",
            ".img",
            ".jpg.png",
            ".pjpeg",
            ".apng",
        )
    )
    whole = images.draw(st.booleans())
    start = len(images.records)
    options: dict[str, Any] = (
        {"lossless": True} if image_format == "WEBP" else {"quality": 98} if image_format == "JPEG" else {}
    )
    for at in range(4 if whole else 1):
        content = encode_image(image_of(start + at), image_format, **options)
        images.add(f"{'cedar' if whole else 'birch'}/odd{at}{ending}", content)
    where = "a class of" if whole else "one"
    return Situation(
        f"{where} {image_format} named *{ending}",
        (ending or "without ending", "cedar", "odd0"),
        harmless=ending in (".jpg", ".jpeg", ".JPG", ".png", ".webp", ".bmp", ".jpg.png"),
    )


@mutation
def other_formats(images: Images) -> Situation:
    images.fill()
    image_format = images.choose(tuple(_OTHERS))
    ending = images.choose((_OTHERS[image_format], ".png"))
    try:
        content = encode_image(image_of(len(images.records)), image_format)
    except (OSError, KeyError):
        content = b"\0\0\1\0" + bytes(100)
    images.add(f"birch/odd{ending}", content)
    images.hyperparameters["max_bad_records"] = images.choose(("0", "1"))
    return Situation(f"one {image_format} named *{ending}", (ending, "odd"))


@mutation
def modes(images: Images) -> Situation:
    images.fill()
    kind = images.choose(
        (
            "P",
            "L",
            "LA",
            "RGBA",
            "CMYK JPEG",
            "CMYK TIFF",
            "YCbCr TIFF",
            "LAB TIFF",
            "P with transparency",
            "palette GIF",
            "1",
            "RGBX TIFF",
            "progressive JPEG",
        )
    )
    at = len(images.records)
    image = image_of(at)
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    options: dict[str, Any] = {}
    image_format = "PNG"
    if kind == "P":
        image = image.quantize(32)
    elif kind in ("L", "LA", "1"):
        images.grey = True
        images.records.clear()
        images.folder.joinpath("ash").mkdir(exist_ok=True)
        for number in range(at):
            images.put(
                f"{'ash' if number < at // 2 else 'birch'}/{number % (at // 2)}.png",
                encode_image(image_of(number, grey=True), "PNG"),
            )
            images.records.append(("ash" if number < at // 2 else "birch", number))
        image = image_of(at, grey=True).convert("L" if kind == "1" else kind)
        if kind == "1":
            return Situation("grey images", harmless=True)
    elif kind == "RGBA":
        image.putalpha(Image.fromarray(alpha))
    elif kind.endswith("TIFF"):
        image_format, image = "TIFF", image.convert(kind.split()[0])
    elif kind == "CMYK JPEG":
        image_format, image, options = "JPEG", image.convert("CMYK"), {"quality": 98}
    elif kind == "P with transparency":
        image, options = image.quantize(32), {"transparency": 255}
    elif kind == "palette GIF":
        image_format, image = "GIF", image.quantize(32)
    elif kind == "progressive JPEG":
        image_format, options = "JPEG", {"quality": 98, "progressive": True}
    try:
        content = encode_image(image, image_format, **options)
    except (OSError, ValueError):
        return Situation(f"Pillow does not write {kind}", harmless=True)
    ending = {"JPEG": ".jpg", "TIFF": ".tiff", "GIF": ".gif"}.get(image_format, ".png")
    images.add(f"birch/odd{ending}", content)
    return Situation(
        f"one image of mode {kind}", ("odd", ".tiff", ".gif", kind), harmless=image_format in ("PNG", "JPEG")
    )


@mutation
def sixteen_bits(images: Images) -> Situation:
    images.grey = True
    low, image_format = images.draw(st.booleans()), images.choose(("PNG", "TIFF"))
    bits = images.choose((8, 12)) if low else 16
    ending = ".png" if image_format == "PNG" else ".tiff"
    for number in range(8):
        values = pixels_of(number, grey=True)[..., 0].astype(np.uint16)
        scaled = values if bits == 8 else values * 16 + values // 16 if bits == 12 else values * 257
        images.add(
            f"{'ash' if number < 4 else 'birch'}/{number}{ending}", encode_image(Image.fromarray(scaled), image_format)
        )
    return Situation(
        f"16-bit {image_format} whose values have {bits} bits", ("16-bit", "16 bits", ending), must_warn=bits == 12
    )


@mutation
def decimal_names(images: Images) -> Situation:
    images.fill()
    images.grey = False
    kind = images.choose(("I", "F"))
    image = image_of(len(images.records)).convert("L").convert(kind)
    images.add("birch/odd.tiff", encode_image(image, "TIFF"))
    images.has_reference = False
    return Situation(f"one TIFF of mode {kind}", ("odd", "32-bit", ".tiff"))


@mutation
def transparent(images: Images) -> Situation:
    """Transparent pixels become white, whatever their hidden color."""
    images.fill()
    number = len(images.records)
    pixels = pixels_of(number)
    white = (pixels == 255).all(axis=-1)
    below = pixels.copy()
    below[white] = (200, 0, 0)
    rgba = np.dstack([below, np.where(white, 0, 255).astype(np.uint8)])
    image_format, ending = images.choose((("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tiff")))
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    images.add(f"birch/odd{ending}", encode_image(Image.fromarray(rgba), image_format, **options))
    return Situation(f"transparent pixels in {image_format}", ("odd", ending), harmless=image_format != "TIFF")


@mutation
def exif_orientation(images: Images) -> Situation:
    images.fill()
    number = len(images.records)
    orientation = images.draw(st.integers(0, 9))
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    image = image_of(number)
    inverse = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(
        orientation, Image.Transpose(turns[orientation]) if orientation in turns else None
    )
    if inverse is not None:
        image = image.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image_format, ending = images.choose((("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")))
    options: dict[str, Any] = (
        {"quality": 98} if image_format == "JPEG" else {"lossless": True} if image_format == "WEBP" else {}
    )
    images.add(f"birch/odd{ending}", encode_image(image, image_format, exif=exif, **options))
    return Situation(f"{image_format} with orientation {orientation}", harmless=True)


@mutation
def several_frames(images: Images) -> Situation:
    images.fill()
    number = len(images.records)
    image_format, ending = images.choose((("GIF", ".gif"), ("WEBP", ".webp"), ("TIFF", ".tiff"), ("PNG", ".png")))
    options: dict[str, Any] = {"lossless": True} if image_format == "WEBP" else {}
    frames = [image_of(number), image_of(number + 1)]
    if image_format == "GIF":
        frames = [frame.quantize(64) for frame in frames]
    content = encode_image(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    images.add(f"birch/odd{ending}", content)
    return Situation(f"{image_format} with two frames", ("odd", ending, "frame"))


@mutation
def damaged(images: Images) -> Situation:
    images.fill()
    image_format, ending = images.choose((("JPEG", ".jpg"), ("PNG", ".png"), ("GIF", ".gif"), ("WEBP", ".webp")))
    content = encode_image(image_of(50), image_format)
    variant, wrong = images.choose(
        (
            ("empty", b""),
            ("cut short", content[: len(content) // 2]),
            ("an HTML page", b"<!doctype html>"),
            ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            ("zeros", bytes(500)),
        )
    )
    images.put(f"birch/odd{ending}", wrong)
    images.has_reference = False
    images.hyperparameters["max_bad_records"] = images.choose(("0", "1"))
    return Situation(f"one {ending} that is {variant}", ("odd",))


# --- Other files in the channel --------------------------------------------------------------------------------------


@mutation
def system_files(images: Images) -> Situation:
    images.fill()
    name = images.choose(
        (
            "Thumbs.db",
            ".DS_Store",
            "desktop.ini",
            "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
            "__MACOSX/ash/._0.png",
            "$RECYCLE.BIN/a.png",
            "lost+found/a.png",
            ".ipynb_checkpoints/a-checkpoint.png",
            "System Volume Information/a.png",
            "#recycle/a.png",
            ".@__thumb/a.png",
            ".thumbnails/a.png",
            "._0.png",
            "_SUCCESS",
            "README.md",
            "labels.csv",
            "ash.zip",
            ".Trashes/a.png",
            "@Recycle/a.png",
            "thumbs/a.png",
        )
    )
    inside = images.draw(st.booleans())
    key = f"ash/{name}" if inside else name
    images.put(
        key, png(60) if name.endswith((".png", ".jpg")) and "/._" not in name and not name.startswith("._") else b"x"
    )
    first = name.partition("/")[0]
    if first == "thumbs":  # A valid name for a class, or for a part of one.
        images.records.append(("ash" if inside else "thumbs", len(images.records)))
        images.put(key, png(len(images.records) - 1))
    return Situation(f"{key} between the images", (first, name, "ending"))


@mutation
def other_files_in_a_class(images: Images) -> Situation:
    images.fill()
    ending = images.choose((".txt", ".xml", ".json", ".pdf", ".heic", ".svg", ".mp4", ".npy", ".raw", ".zip"))
    whole = images.draw(st.booleans())
    images.put(f"{'cedar' if whole else 'birch'}/odd{ending}", b"x" * 100)
    several = ending in (".heic", ".svg", ".pdf", ".raw", ".npy", ".mp4", ".zip")
    return Situation(f"{'a class of' if whole else 'one'} {ending}", (ending, "cedar"), must_warn=several or whole)


@mutation
def dataset_roots(images: Images) -> Situation:
    parts = images.choose(
        (
            ("training_set", "test_set"),
            ("train", "val"),
            ("Training", "Testing"),
            ("seg_train/seg_train", "seg_test/seg_test"),
            ("fold_0", "fold_1", "fold_2"),
            ("split1", "split2"),
            ("TRAIN", "TEST"),
            ("images_train", "images_test"),
            ("day1", "day2"),
            ("chest_xray/train", "chest_xray/test"),
            ("dataset",),
            ("data/images",),
            ("part_a", "part_b"),
        )
    )
    for part in parts:
        for name in ("ash", "birch"):
            for at in range(3):
                images.add(f"{part}/{name}/{at}.png")
    images.has_reference = False
    return Situation(
        f"folders {', '.join(parts)} with the same class folders in each", (parts[0].split("/")[0], "class folders")
    )


@mutation
def nested_folders(images: Images) -> Situation:
    for name in ("ash", "birch"):
        for at, middle in enumerate(images.choose((("", "", "x/"), ("2020/", "2021/", "2022/"), ("a/b/", "", "c/")))):
            images.add(f"{name}/{middle}{name}{at}.png")
    return Situation("folders below class folders", ("folder",))


@mutation
def loose_images(images: Images) -> Situation:
    images.fill()
    images.put("loose.png", png(60))
    images.has_reference = False
    return Situation("an image outside of the class folders", ("loose",))


@mutation
def symbolic_links(images: Images) -> Situation:
    images.fill()
    kind = images.choose(("file within", "file outside", "folder within", "folder outside", "dangling", "every folder"))
    outside = images.folder.parent / "outside"
    if kind == "file within":
        images.records.append(("birch", 0))
        (images.folder / "birch" / "odd.png").symlink_to("../ash/0.png")
    elif kind == "file outside":
        outside.mkdir()
        (outside / "a.png").write_bytes(png(60))
        (images.folder / "birch" / "odd.png").symlink_to(outside / "a.png")
        images.has_reference = False
    elif kind == "dangling":
        (images.folder / "birch" / "odd.png").symlink_to("nothing")
        images.has_reference = False
    elif kind == "every folder":
        images.folder.rename(outside)
        images.folder.mkdir()
        for name in ("ash", "birch"):
            (images.folder / name).symlink_to(outside / name)
        images.has_reference = False
    else:
        target = outside / "cedar" if kind == "folder outside" else images.folder / ".store" / "cedar"
        target.mkdir(parents=True)
        (target / "a.png").write_bytes(png(len(images.records)))
        (images.folder / "cedar").symlink_to(target)
        images.records.append(("cedar", len(images.records)))
        images.has_reference = kind == "folder within"
    return Situation(f"a link: {kind}", ("link", "odd", "cedar"), must_refuse=kind == "folder outside")


@mutation
def names_of_classes(images: Images) -> Situation:
    names = images.choose(
        (
            ("0.5", "1.0", "2.0"),
            ("01", "02", "10"),
            ("nan", "inf", "x"),
            ("None", "null", "NA"),
            ("True", "False"),
            ("a.b", "a_b"),
            (" a", "b "),
            ("1e3", "1000"),
            ("a,b", "c"),
            ("a|b", "c"),
            ("label", "text"),
            ("n01440764", "n01443537"),
            ("-1", "1"),
            ("_a", "b"),
            ("ä", "ö"),
            ("a" * 200, "b"),
            ("日本", "中国"),
            ("=1+1", "b"),
            ("+1", "1.00"),
            ("00", "0"),
        )
    )
    images.fill(names)
    return Situation(f"class folders {names}", (*names, "class folder"))


@mutation
def class_names_that_look_alike(images: Images) -> Situation:
    names = images.choose(
        (("Pos", "pos", "neg"), ("01", "1", "2"), ("\u00e9", "e\u0301", "f"), ("a", "a ", "b"), ("1", "1.0", "2"))
    )
    images.fill(names)
    return Situation(f"class folders {names}", (names[0], names[1], "case", "class"), must_warn=True)


@mutation
def class_names_with_control_characters(images: Images) -> Situation:
    name = images.choose(("a\nvalidation:accuracy=0.99;", "a\tb", "a\x1b[31m", "a\u202eb", "a\u2028b", "a\x07"))
    images.fill(("ash", name))
    return Situation(f"class folder {name!r}", ("control", "class folder"))


@mutation
def empty_class(images: Images) -> Situation:
    images.fill()
    (images.folder / "cedar").mkdir()
    return Situation("an empty class folder", ("cedar",), must_warn=True)


# --- Tar shards ------------------------------------------------------------------------------------------------------


def _tar(images: Images, members: Sequence[tuple[str, bytes]], name: str = "shard-0.tar") -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz" if name.endswith("gz") else "w") as archive:
        for key, body in members:
            info = tarfile.TarInfo(key)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    images.put(name, content.getvalue())
    images.content_type = "application/x-tar" if images.piped else None


@mutation
def shards_of_webdataset(images: Images) -> Situation:
    images.piped = images.draw(st.booleans())
    stem = images.choose(("{:04d}", "a/{:04d}", "./{:04d}", "photo.{:06d}", "v1.0/{:04d}"))
    ending, label = images.choose(
        (("png", "cls"), ("PNG", "cls"), ("png", "json"), ("image.png", "cls"), ("png", "label.txt"))
    )
    members = []
    for number in range(8):
        name = ("ash", "birch")[number % 2]
        body = f'{{"label": "{name}"}}'.encode() if label == "json" else name.encode()
        members += [(f"{stem.format(number)}.{ending}", png(number)), (f"{stem.format(number)}.{label}", body)]
        images.records.append((name, number))
    _tar(images, members, images.choose(("shard-0.tar", "shard-0.tar.gz", "shard-0.tgz")))
    usual = (ending, label) in (("png", "cls"), ("PNG", "cls")) and "." not in stem.removeprefix("./")
    return Situation(f"shard of {stem}.{ending} and .{label}", ("field", "column", "dot", label, "."), harmless=usual)


@mutation
def tar_of_class_folders(images: Images) -> Situation:
    images.piped = images.draw(st.booleans())
    image_format = images.choose(
        (
            "{label}/{number}.png",
            "{label}/{label}.{number}.png",
            "train/{label}/{number}.png",
            "./{label}/{number}.png",
            "{label}/a.b.{number}.png",
        )
    )
    members = []
    for number in range(8):
        label = ("ash", "birch")[number % 2]
        members.append((image_format.format(label=label, number=number), png(number)))
        images.records.append((label, number))
    members.sort()
    _tar(images, members, images.choose(("pictures.tar", "pictures.tar.gz")))
    dotted = "." in image_format.rpartition("/")[2].removesuffix(".png")
    return Situation(
        f"tar of {image_format}",
        ("dot",) if dotted else ("train",),
        harmless=image_format.startswith("{") and not dotted,
    )


@mutation
def damaged_shard(images: Images) -> Situation:
    images.piped = images.draw(st.booleans())
    variant = images.choose(("cut short", "absolute", "dots", "link", "NUL", "long name", "no end"))
    members = [
        (f"{number:04d}.{ending}", body)
        for number in range(8)
        for ending, body in (("png", png(number)), ("cls", ("ash", "birch")[number % 2].encode()))
    ]
    images.records = [(("ash", "birch")[number % 2], number) for number in range(8)]
    _tar(images, members)
    path = images.folder / "shard-0.tar"
    content = path.read_bytes()
    if variant == "cut short":
        path.write_bytes(content[: len(content) // 2])
        images.has_reference = False
    elif variant == "no end":
        path.write_bytes(
            content[: 1024 * (len(content) // 1024 - 9)].rstrip(b"\0") + bytes(512 - len(content.rstrip(b"\0")) % 512)
        )
        images.has_reference = False
    else:
        body = tarfile.TarInfo(
            {"absolute": "/etc/x.png", "dots": "../x.png", "long name": "x" * 300 + ".png", "NUL": "x\0y.png"}.get(
                variant, "x.png"
            )
        )
        if variant == "link":
            body.type, body.linkname = tarfile.SYMTYPE, "/etc/passwd"
        with tarfile.open(path, "a") as archive:
            archive.addfile(body)
        images.has_reference = variant == "link"
    return Situation(f"a shard with {variant}", ("shard-0.tar", "record", "stream", "x.png", "link", "field"))
