"""Model archives, as users and attackers pack them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.model_folders import Folder
from tests.fuzz.oracle import Situation

ARCHIVE = "model.tar.gz"


@dataclass
class Packed:
    """A model folder to be packed into an archive in the model channel.

    Attributes:
        folder: folder to pack; its reference is that of the archive.
        channel: the model channel.
        draw: hypothesis' draw.
    """

    folder: Folder
    channel: Path
    draw: Callable[[st.SearchStrategy[Any]], Any]

    def choose(self, values: Sequence[Any]) -> Any:  # noqa: ANN401 - any type
        """Draw one of some values."""
        return self.draw(st.sampled_from(list(values)))

    def members(self, prefix: str = "") -> list[tuple[tarfile.TarInfo, bytes]]:
        """The files of the folder, as members of an archive."""
        return [member(prefix + path.name, path.read_bytes()) for path in sorted(self.folder.path.iterdir())]

    def write(self, members: Sequence[tuple[tarfile.TarInfo, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
        """Write the archive, and return the bytes of its tar file."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=tar_format) as archive:
            for info, body in members:
                archive.addfile(info, io.BytesIO(body))
        self.put(gzip.compress(content.getvalue(), 1))
        return content.getvalue()

    def put(self, content: bytes, name: str = ARCHIVE) -> None:
        """Write a file of the channel."""
        self.channel.mkdir(exist_ok=True)
        (self.channel / name).write_bytes(content)


def member(
    name: str, body: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    """A member of an archive."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(body), kind, target
    return info, body


Mutation = Callable[[Packed], Situation]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Register a packing mutation."""
    MUTATIONS[function.__name__] = function
    return function


@mutation
def packing(packed: Packed) -> Situation:
    prefix = packed.choose(("", "./", "model/", "./model/", "a/b/"))
    tar_format = packed.choose((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT))
    members = packed.members(prefix)
    if prefix and packed.draw(st.booleans()):
        members.insert(0, member(prefix.rstrip("/") + "/", kind=tarfile.DIRTYPE))
    packed.write(members, tar_format)
    return Situation(f"members {prefix}*, format {tar_format}", harmless=True)


@mutation
def compressions(packed: Packed) -> Situation:
    tar = packed.write(packed.members())
    (packed.channel / ARCHIVE).unlink()
    name, content = packed.choose(
        (
            ("model.tar", tar),
            ("model.tgz", gzip.compress(tar)),
            ("model.tar.gz", tar),
            ("model.tar.gz", bz2.compress(tar)),
            ("model.tar.gz", lzma.compress(tar)),
            ("model.tar.bz2", bz2.compress(tar)),
            ("model.tar.xz", lzma.compress(tar)),
            ("model.TAR.GZ", gzip.compress(tar)),
            ("output.tar.gz", gzip.compress(tar)),
            ("model.tar.gz", gzip.compress(gzip.compress(tar))),
            ("model.zip", _zip(packed)),
            ("model.tar.gz", _zip(packed)),
        )
    )
    packed.put(content, name)
    usual = name in ("model.tar", "model.tgz") or (
        name == ARCHIVE and content[:2] != b"PK" and content[:3] != b"\x1f\x8b\x08"
    )
    return Situation(f"{name} that begins with {content[:4]!r}", (name, "archive"), harmless=usual)


def _zip(packed: Packed) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for info, body in packed.members():
            archive.writestr(info.name, body)
    return content.getvalue()


@mutation
def code_next_to_model(packed: Packed) -> Situation:
    more = packed.choose((("code/inference.py",), ("code/inference.py", "code/requirements.txt"), ("logs/train.log",)))
    packed.write([*packed.members(packed.choose(("", "model/"))), *(member(name, b"print()") for name in more)])
    return Situation(f"a model with {', '.join(more)}", ("code", "logs"))


@mutation
def members_outside(packed: Packed) -> Situation:
    name = packed.choose(
        ("../evil", "/tmp/fuzz-evil", "a/../../evil", "..", "./../evil", "//evil", "a/b/../../../evil")
    )
    members = packed.members()
    members.insert(packed.draw(st.integers(0, len(members))), member(name, b"evil"))
    packed.write(members, packed.choose((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
    packed.folder.forbidden = "a member outside"
    return Situation(f"a member {name!r}", (name, "outside"))


@mutation
def special_members(packed: Packed) -> Situation:
    kind, variant = packed.choose(
        (
            (tarfile.SYMTYPE, "symbolic link"),
            (tarfile.LNKTYPE, "hard link"),
            (tarfile.CHRTYPE, "device"),
            (tarfile.BLKTYPE, "block device"),
            (tarfile.FIFOTYPE, "pipe"),
            (b"Z", "unknown type"),
            (tarfile.CONTTYPE, "contiguous file"),
        )
    )
    target = packed.choose(("/etc/passwd", "config.json", "../x", ""))
    members = packed.members()
    members.insert(packed.draw(st.integers(0, len(members))), member("odd", b"", kind, target))
    packed.write(members)
    return Situation(f"a member of kind {variant} to {target!r}", ("odd",))


@mutation
def a_link_in_place_of_a_file(packed: Packed) -> Situation:
    members = packed.members()
    at = packed.draw(st.integers(0, len(members) - 1))
    name = members[at][0].name
    kind = packed.choose((tarfile.SYMTYPE, tarfile.LNKTYPE))
    target = packed.choose(("/etc/passwd", f"real-{name}", f"../{name}"))
    members = [
        *members[:at],
        member(f"real-{name}", members[at][1]),
        member(name, b"", kind, target),
        *members[at + 1 :],
    ]
    packed.write(members)
    return Situation(f"{name} is a link to {target}", (name, "link"))


@mutation
def odd_names(packed: Packed) -> Situation:
    name = packed.choose(
        (
            "odd\0name",
            "x" * 300,
            "/".join(["y" * 100] * 50),
            ".",
            "",
            "odd\nvalidation:accuracy=0.99;",
            "\udcff",
            "config.json/inner",
            "odd ",
            " ",
            "a" * 255,
            "model.safetensors/",
            "C:\\odd",
            "odd\x1b[31m",
        )
    )
    tar_format = packed.choose((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    members = packed.members()
    unusual = member(name, b"odd")
    if "\0" in name:
        unusual[0].name, unusual[0].pax_headers, tar_format = "odd", {"path": name}, tarfile.PAX_FORMAT
    members.insert(packed.choose((0, len(members))), unusual)
    try:
        packed.write(members, tar_format)
    except (UnicodeError, ValueError):
        packed.write(packed.members())
        return Situation("tarfile does not write it", harmless=True)
    shown = (name[:20].strip(" /") or "member", repr(name)[1:20], "member", ARCHIVE)
    return Situation(f"a member {name[:40]!r}", shown)


@mutation
def two_members_of_one_name(packed: Packed) -> Situation:
    """The later one wins, as in tar; a folder and a file of the same name are an error."""
    kind = packed.choose(("file and folder", "folder and file", "file and inner file", "twice"))
    members = packed.members()
    if kind == "file and folder":
        members += [member("odd", b"x"), member("odd", kind=tarfile.DIRTYPE)]
    elif kind == "folder and file":
        members += [member("odd", kind=tarfile.DIRTYPE), member("odd", b"x")]
    elif kind == "file and inner file":
        members += [member("odd", b"x"), member("odd/inner", b"x")]
    else:
        members = [member("config.json", b"{}"), *members]
    packed.write(members)
    return Situation(f"two members of one name: {kind}", ("odd", "config.json"))


@mutation
def damaged_archive(packed: Packed) -> Situation:
    tar = packed.write(packed.members())
    complete_archive = (packed.channel / ARCHIVE).read_bytes()
    at = packed.draw(st.integers(0, len(complete_archive) - 1))
    flipped = bytearray(complete_archive)
    flipped[at] ^= 0x55
    in_tar = packed.draw(st.integers(0, len(tar) // 512 - 1)) * 512
    variant, content = packed.choose(
        (
            ("cut short", complete_archive[: -packed.draw(st.integers(1, len(complete_archive) - 1))]),
            ("empty", b""),
            ("an HTML page", b"<!doctype html><html>404</html>"),
            ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            (f"changed at byte {at}", bytes(flipped)),
            ("its tar cut short", gzip.compress(tar[:in_tar] or tar[:300])),
            ("only zeros", gzip.compress(bytes(10240))),
            ("bytes behind its end", complete_archive + b"x" * 20),
            ("an archive in an archive", _nested(complete_archive)),
        )
    )
    packed.put(content)
    names = (
        (ARCHIVE, "LFS")
        if "LFS" in variant
        else (ARCHIVE, "model.safetensors", "config.json", "tokenizer", "weights in")
    )
    return Situation(f"{ARCHIVE} is {variant}", names)


def _nested(complete_archive: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        info, body = member(ARCHIVE, complete_archive)
        archive.addfile(info, io.BytesIO(body))
    return content.getvalue()


@mutation
def wrong_sizes(packed: Packed) -> Situation:
    size = packed.choose((2**33, 2**40, 10**9))
    info, _ = member("odd")
    info.size = size
    content = b"".join(
        part for entry, body in packed.members() for part in (entry.tobuf(), body, bytes(-len(body) % 512))
    )
    packed.put(gzip.compress(content + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
    packed.folder.forbidden = "a member that is not there"
    return Situation(f"a member that claims {size} bytes", ("odd", ARCHIVE))


@mutation
def several_archives(packed: Packed) -> Situation:
    packed.write(packed.members())
    name = packed.choose(("output.tar.gz", "other.tar.gz", "other.tgz", "README.md", ".DS_Store"))
    packed.put(b"x", name)
    return Situation(f"{name} beside {ARCHIVE}", harmless=name in ("output.tar.gz", ".DS_Store"), names=(name,))
