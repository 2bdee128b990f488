"""Finds the artifact at a path that a person names: unpacked, or as `model.tar.gz`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import UserError
from finetune.models.weights.archive import is_archive, unpack

_ARTIFACT, _MODEL, _ARCHIVE = "artifact.json", "model", "model.tar.gz"


@contextmanager
def artifact_folder(path: Path | str) -> Iterator[Path]:
    """Provide the folder of the artifact at `path`, which is `model.tar.gz`, its contents or the folder of a job.

    An archive is unpacked into a temporary folder, which is removed when the block ends.

    Raises:
        UserError: there is no artifact, or its archive is damaged.
    """
    path = Path(path)
    if str(path).startswith("s3:"):
        raise UserError(f"{path} is not a local path; download it, for example with `aws s3 cp`.")
    for place in (path, path / _MODEL, path / _ARCHIVE, path / _MODEL / _ARCHIVE):
        if (place / _ARTIFACT).is_file():
            yield place
            return
        if place.is_file() and is_archive(place):
            with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
                yield unpack(place, Path(scratch))
            return
    raise UserError(
        f"{path} contains no model of this project: neither {_ARTIFACT} nor {_ARCHIVE}. Give the model.tar.gz of a"
        " finished job, or the folder of its contents."
    )
