"""Checkpoint manifest: describes the job and lists the files of a checkpoint.

The manifest is a JSON object with the entries `body` and `sha256`, the hash of the body written with sorted keys and
without spaces. Format and version are checked first, so that a later version may change everything else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from finetune.checkpoint.layout import CheckpointName, part_name
from finetune.checkpoint.state import FlatState, Json, flatten_state, unflatten_state
from finetune.checkpoint.tensor_file import FileEntry

FORMAT = "finetune-checkpoint"
VERSION = 1
MAX_MANIFEST_BYTES = 16 << 20

_SHA256 = re.compile(r"[0-9a-f]{64}")


class InvalidCheckpointError(Exception):
    """The folder is not a checkpoint that can be resumed from; the message says why.

    Attributes:
        foreign: Whether it belongs to another program or a later version and must not be touched; otherwise it is an
            incomplete checkpoint of this program.
    """

    def __init__(self, reason: str, *, foreign: bool = False) -> None:
        super().__init__(reason)
        self.foreign = foreign


@dataclass(frozen=True, slots=True)
class Specification:
    """Specification of the job that wrote a checkpoint.

    Attributes:
        digest: Equal for requests with the same result.
        fields: Name -> plain value of all relevant settings, to report differences.
    """

    digest: str
    fields: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Mapping[str, object]) -> Self:
        """Return a specification with the digest of its fields, independent of their order."""
        return cls(hashlib.sha256(_canonical(_plain(fields))).hexdigest(), fields)

    def differing_fields(self, other: Specification) -> tuple[str, ...]:
        """Return the sorted names of fields that differ or that only one of the two has."""
        mine, theirs = ({name: _plain(value) for name, value in spec.fields.items()} for spec in (self, other))
        names = mine.keys() | theirs.keys()
        return tuple(
            sorted(
                name
                for name in names
                if name not in mine or name not in theirs or _canonical(mine[name]) != _canonical(theirs[name])
            )
        )


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """Description of a checkpoint by the caller.

    Attributes:
        step: Steps done when it was taken.
        kind: Reason for taking it: `periodic`, `epoch`, `interruption` or `final`, for example.
        specification: Specification of the job.
        best: Whether the model was the best so far; the last such checkpoint is kept longer than newer ones.
        virtual_devices: Number of shards into which the job divides every batch.
        threads: Number of CPU threads that compute a shard, on which its last bits depend; `None` for a job with one
            shard per batch, or on GPUs.
    """

    step: int
    kind: str
    specification: Specification
    best: bool = False
    virtual_devices: int = 1
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description and list of files of a checkpoint.

    Attributes:
        name: Name of the checkpoint's folder.
        info: Description by the caller.
        created: Unix time in seconds, by the clock of the machine that wrote it.
        files: File name -> expected size and hash.
    """

    name: CheckpointName
    info: CheckpointInfo
    created: float
    files: Mapping[str, FileEntry]

    def encode(self) -> bytes:
        """Return the content of the manifest file."""
        body: dict[str, Json] = {
            "format": FORMAT,
            "version": VERSION,
            "name": str(self.name),
            "kind": self.info.kind,
            "best": self.info.best,
            "virtual_devices": self.info.virtual_devices,
            "threads": self.info.threads,
            "created": self.created,
            "specification": {
                "digest": self.info.specification.digest,
                "fields": _plain(self.info.specification.fields),
            },
            "files": {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in self.files.items()},
        }
        document = {"body": body, "sha256": hashlib.sha256(_canonical(body)).hexdigest()}
        return json.dumps(document, indent=1, allow_nan=False).encode()


def parse_manifest(content: bytes, name: CheckpointName) -> Manifest:
    """Parse a manifest found in the folder `name`.

    Raises:
        UnusableError: The manifest is damaged, of another program or version, or of another checkpoint.
    """
    body = _checked_body(content)
    try:
        manifest, recorded_name = _manifest_of(body, name), body["name"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidCheckpointError(
            f"manifest has a missing or invalid entry ({type(error).__name__}: {error})"
        ) from error
    if recorded_name != str(name):
        raise InvalidCheckpointError(f"manifest belongs to {recorded_name}")
    return manifest


def _checked_body(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidCheckpointError("manifest is not JSON" if content else "manifest is empty") from error
    body = document.get("body") if isinstance(document, dict) else None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise InvalidCheckpointError("manifest is from another program", foreign=True)
    if body.get("version") != VERSION:
        raise InvalidCheckpointError(
            f"unsupported format version {body.get('version')!r}, expected {VERSION}", foreign=True
        )
    try:
        digest = hashlib.sha256(_canonical(body)).hexdigest()
    except (ValueError, RecursionError) as error:  # JSON that Python reads, but this program never writes
        raise InvalidCheckpointError("manifest contains invalid values") from error
    if document.get("sha256") != digest:
        raise InvalidCheckpointError("manifest does not match its own hash")
    return body


def _manifest_of(body: Mapping[str, Any], name: CheckpointName) -> Manifest:
    fields = unflatten_state(FlatState({}, body["specification"]["fields"]))
    if not isinstance(fields, dict) or not all(isinstance(field, str) for field in fields):
        raise ValueError("fields of the specification")
    specification = Specification(str(body["specification"]["digest"]), fields)
    files = {str(file): FileEntry(int(entry["size"]), str(entry["sha256"])) for file, entry in body["files"].items()}
    for file, entry in files.items():
        if part_name(file) is None or entry.size < 0 or not _SHA256.fullmatch(entry.sha256):
            raise ValueError(f"file {file!r}")
    # Earlier versions had one shard per batch, and did not write these two.
    virtual_devices, threads = body.get("virtual_devices", 1), body.get("threads")
    if not isinstance(virtual_devices, int) or virtual_devices < 1 or not isinstance(threads, int | None):
        raise ValueError(f"virtual_devices {virtual_devices!r} or threads {threads!r}")
    info = CheckpointInfo(name.step, str(body["kind"]), specification, body["best"] is True, virtual_devices, threads)
    return Manifest(name, info, float(body["created"]), files)


def _plain(value: object) -> Json:
    flat = flatten_state(value)
    if flat.tensors:
        raise TypeError(f"a specification holds no tensors, but this one has {', '.join(flat.tensors)}")
    return flat.values


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
