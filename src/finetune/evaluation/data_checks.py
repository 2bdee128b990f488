"""Data checks: most confident mistakes with their content, duplicates, and leakage between parts."""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.data.bad_records import BadRecordError
from finetune.data.labels import LabelMap
from finetune.data.loading.batches import Batches, BatchSource
from finetune.data.loading.dataset import Subset
from finetune.data.loading.split import content_digests
from finetune.data.record import Content
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import decode_image
from finetune.errors import DataError
from finetune.evaluation.predict import EvaluationResult

MAX_MISTAKES = 24
MAX_COMPARED_RECORDS = 200_000
"""Maximum number of records whose contents are read again for comparison."""
_MAX_GROUPS = 500
_THUMBNAIL_SIZE = 128
_MAX_CHARACTERS = 400


def most_confident_mistakes(name: str, one: EvaluationResult) -> dict[str, object]:
    """The most confident mistakes with their content.

    Returns:
        JSON values: `part`, `of`, `count`, and `records`, the most confident first.
    """
    predictions, labels = one.predictions, one.batches.label_map
    surest, classes = _certainty(predictions.probabilities, predictions.targets)
    mistaken = np.flatnonzero(surest > 0)
    order = mistaken[np.argsort(-surest[mistaken], kind="stable")][:MAX_MISTAKES]
    records = []
    for row in order:
        position = int(predictions.positions[row])
        truth = _names(labels, predictions.targets[row])
        chosen = labels.names[int(classes[row])]
        told = chosen if not labels.multi_label or chosen not in truth else f"not {chosen}"
        records.append(
            {
                "key": one.batches.key(position),
                "truth": ", ".join(truth) or "none",
                "predicted": told,
                "probability": round(float(surest[row]), 4),
                **_shown(one.batches, position),
            }
        )
    return {"part": name, "of": len(surest), "count": len(mistaken), "records": records}


def _certainty(
    probabilities: NDArray[np.float32], targets: NDArray[np.int64] | NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Confidence of each record's worst mistake, 0 if it is predicted correctly, and the class concerned."""
    if targets.ndim == 1:
        classes = probabilities.argmax(axis=1)
        return np.where(classes != targets, probabilities.max(axis=1), 0.0), classes
    truth = targets > 0.5
    said = probabilities > 0.5
    wrong = np.where(said != truth, np.where(said, probabilities, 1 - probabilities), 0.0)
    return wrong.max(axis=1), wrong.argmax(axis=1)


def _names(labels: LabelMap, target: NDArray[np.generic]) -> tuple[str, ...]:
    if not labels.multi_label:
        return (labels.names[int(target)],)
    return tuple(name for name, value in zip(labels.names, target.tolist(), strict=True) if value > 0.5)


def _shown(batches: BatchSource, position: int) -> dict[str, str]:
    if not isinstance(batches, Batches):
        return {"text": "(a streamed record, which cannot be read again)"}
    dataset = batches.dataset
    depth = dataset.transform.sixteen_bit_depth if isinstance(dataset.transform, ImageTransform) else None
    try:
        return _drawn(dataset.reader.read(dataset.indices[position]).content, depth)
    except DataError:
        return {"text": "(the record cannot be read again)"}


def _drawn(content: Content, sixteen_bit_depth: int | None = None) -> dict[str, str]:
    if not isinstance(content, bytes):
        text = "\n".join(content)
        return {"text": text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"}
    try:
        return {"image": thumbnail(content, sixteen_bit_depth)}
    except BadRecordError:
        return {"text": "(the image cannot be decoded)"}


def thumbnail(content: bytes, sixteen_bit_depth: int | None = None) -> str:
    """A small JPEG of an image as a data URI.

    Args:
        content: the encoded image.
        sixteen_bit_depth: bits used by 16-bit grey images.

    Raises:
        BadContent: the image cannot be decoded.
    """
    image = Image.fromarray(decode_image(content, sixteen_bit_depth=sixteen_bit_depth).permute(1, 2, 0).numpy())
    image.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE))
    if max(image.size) < _THUMBNAIL_SIZE // 2:
        factor = _THUMBNAIL_SIZE // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def find_duplicates(parts: Mapping[str, Subset]) -> dict[str, object]:
    """Find records with identical bytes, within a part and across parts.

    Only possible duplicates, such as files of the same size, are read again.

    Returns:
        JSON values: `count` of repeated contents, `groups` with their records, `leaks` between each pair of parts, and
        `contradictions`, the number of contents that occur with different labels.
    """
    places: dict[bytes, list[tuple[str, str, tuple[str, ...]]]] = defaultdict(list)
    clues = {name: [part.reader.clue(index) for index in part.indices] for name, part in parts.items()}
    occurrences = Counter(chain.from_iterable(clues.values()))
    for name, part in parts.items():
        doubtful = [index for index, clue in zip(part.indices, clues[name], strict=True) if occurrences[clue] > 1]
        for index, digest in zip(doubtful, content_digests(part.reader, doubtful), strict=True):
            if digest is not None:
                places[digest].append((name, part.reader.key(index), tuple(sorted(part.reader.labels(index)))))
    groups = [found for found in places.values() if len(found) > 1]
    groups.sort(key=lambda found: (-len({part for part, _, _ in found}), found[0][1]))
    leaks: dict[tuple[str, str], int] = defaultdict(int)
    for found in groups:
        inside = [name for name in parts if any(part == name for part, _, _ in found)]
        for first_at, first in enumerate(inside):
            for second in inside[first_at + 1 :]:
                leaks[first, second] += sum(part == second for part, _, _ in found)
    return {
        "count": len(groups),
        "contradictions": sum(len({labels for _, _, labels in found}) > 1 for found in groups),
        "leaks": [{"parts": list(pair), "records": count} for pair, count in leaks.items()],
        "groups": [
            {"records": [{"part": part, "key": key, "labels": list(labels)} for part, key, labels in found]}
            for found in groups[:_MAX_GROUPS]
        ],
    }


def check_duplicates(parts: Mapping[str, Subset]) -> dict[str, object]:
    """`equal_contents`, or the reason why it was skipped.

    It is skipped if a channel cannot be read again, or if there are so many records that reading them would take long.
    """
    nothing: dict[str, object] = {"count": 0, "contradictions": 0, "leaks": [], "groups": []}
    if sum(len(part.indices) for part in parts.values()) > MAX_COMPARED_RECORDS:
        return nothing | {"unknown": f"there are more than {MAX_COMPARED_RECORDS:,} records"}
    try:
        return find_duplicates(parts)
    except (DataError, OSError) as error:
        return nothing | {"unknown": str(error)}
