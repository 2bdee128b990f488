"""Data checks: most confident mistakes with their content, duplicates, and leakage between parts."""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import chain, combinations

import numpy as np
from PIL import Image

from finetune.data.bad_records import BadRecordError
from finetune.data.loading.batches import Batches, BatchSource
from finetune.data.loading.dataset import Subset
from finetune.data.loading.split import content_digests
from finetune.data.record import Content
from finetune.data.transforms.base import ImageTransform
from finetune.data.transforms.image import decode_image
from finetune.errors import DataError
from finetune.evaluation.predict import EvaluationResult
from finetune.tasks.task import Task

MAX_MISTAKES = 24
MAX_COMPARED_RECORDS = 200_000
"""Maximum number of records whose contents are read again for comparison."""
_MAX_GROUPS = 500
_THUMBNAIL_SIZE = 128
_MAX_CHARACTERS = 400


def most_confident_mistakes(part: str, result: EvaluationResult, task: Task) -> dict[str, object]:
    """The most confident mistakes with their content.

    Returns:
        JSON values: `part`, `of`, `count`, and `records`, the most confident first.
    """
    predictions, labels = result.predictions, result.batches.label_map
    confidences, classes = task.mistakes(predictions.targets, predictions.probabilities)
    mistakes = np.flatnonzero(confidences > 0)
    order = mistakes[np.argsort(-confidences[mistakes], kind="stable")][:MAX_MISTAKES]
    records = []
    for row in order:
        position = int(predictions.positions[row])
        truth = task.true_classes(predictions.targets[row])
        name = labels.names[int(classes[row])]
        predicted = f"not {name}" if name in truth else name
        records.append(
            {
                "key": result.batches.key(position),
                "truth": ", ".join(truth) or "none",
                "predicted": predicted,
                "probability": round(float(confidences[row]), 4),
                **_content(result.batches, position),
            }
        )
    return {"part": part, "of": len(confidences), "count": len(mistakes), "records": records}


def _content(batches: BatchSource, position: int) -> dict[str, str]:
    if not isinstance(batches, Batches):
        return {"text": "(a streamed record, which cannot be read again)"}
    dataset = batches.dataset
    depth = dataset.transform.sixteen_bit_depth if isinstance(dataset.transform, ImageTransform) else None
    try:
        return _render(dataset.reader.read(dataset.indices[position]).content, depth)
    except DataError:
        return {"text": "(the record cannot be read again)"}


def _render(content: Content, sixteen_bit_depth: int | None = None) -> dict[str, str]:
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
        BadRecordError: the image cannot be decoded.
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
    occurrences: dict[bytes, list[tuple[str, str, tuple[str, ...]]]] = defaultdict(list)
    clues = {name: [part.reader.clue(index) for index in part.indices] for name, part in parts.items()}
    clue_counts = Counter(chain.from_iterable(clues.values()))
    for name, part in parts.items():
        candidates = [index for index, clue in zip(part.indices, clues[name], strict=True) if clue_counts[clue] > 1]
        for index, digest in zip(candidates, content_digests(part.reader, candidates), strict=True):
            if digest is not None:
                occurrences[digest].append((name, part.reader.key(index), tuple(sorted(part.reader.labels(index)))))
    groups = [group for group in occurrences.values() if len(group) > 1]
    groups.sort(key=lambda group: (-len({part for part, _, _ in group}), group[0][1]))
    leaks: dict[tuple[str, str], int] = defaultdict(int)
    for group in groups:
        group_parts = [name for name in parts if any(part == name for part, _, _ in group)]
        for first, second in combinations(group_parts, 2):
            leaks[first, second] += sum(part == second for part, _, _ in group)
    return {
        "count": len(groups),
        "contradictions": sum(len({labels for _, _, labels in group}) > 1 for group in groups),
        "leaks": [{"parts": list(pair), "records": count} for pair, count in leaks.items()],
        "groups": [
            {"records": [{"part": part, "key": key, "labels": list(labels)} for part, key, labels in group]}
            for group in groups[:_MAX_GROUPS]
        ],
    }


def check_duplicates(parts: Mapping[str, Subset]) -> dict[str, object]:
    """`find_duplicates`, or the reason why it was skipped.

    It is skipped if a channel cannot be read again, or if there are so many records that reading them would take long.
    """
    unchecked: dict[str, object] = {"count": 0, "contradictions": 0, "leaks": [], "groups": []}
    if sum(len(part.indices) for part in parts.values()) > MAX_COMPARED_RECORDS:
        return unchecked | {"unknown": f"there are more than {MAX_COMPARED_RECORDS:,} records"}
    try:
        return find_duplicates(parts)
    except (DataError, OSError) as error:
        return unchecked | {"unknown": str(error)}
