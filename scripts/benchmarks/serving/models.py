"""The models that are served, and bodies of requests for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.image_task import write_images
from benchmarks.text_files import read_texts, write_texts
from finetune.config.hyperparameters import ModelSpec
from finetune.data.labels import LabelMap
from finetune.export.export import ArtifactContents, export
from finetune.models.load import load_backbone
from finetune.models.request import ModelRequest
from finetune.tasks.create import create_task

_RECORDS = 200


@dataclass(frozen=True, slots=True)
class Served:
    """A model to serve, and bodies of requests for it.

    Attributes:
        root: folder in place of `/opt/ml`.
    """

    name: str
    root: Path
    bodies: Sequence[bytes]
    content_type: str


def image_model(folder: Path, count: int = _RECORDS) -> Served:
    """A ResNet-18 at 224 pixels, and `count` JPEG images of about 40 kB."""
    files = sorted(write_images(folder, count).train.rglob("*.jpg"))
    spec = ModelSpec(name="resnet18")
    request = ModelRequest(
        spec, "image-classification", ("a", "b", "c", "d"), "single_label_classification",
        pretrained=False, image_size=224, max_length=None, seed=1, model_channel=None, baked_weights=None,
        scratch=folder / "scratch",
    )  # fmt: skip
    _export(request, folder / "root")
    return Served("resnet18", folder / "root", [path.read_bytes() for path in files], "image/jpeg")


def text_model(folder: Path) -> Served:
    """MiniLM, and texts of up to 128 tokens."""
    task = write_texts(folder, _RECORDS)
    labels, texts = read_texts(task.train)
    request = ModelRequest(
        ModelSpec(), "text-classification", tuple(sorted(set(labels))), "single_label_classification",
        pretrained=True, image_size=None, max_length=128, seed=1, model_channel=task.model, baked_weights=None,
        scratch=folder / "scratch",
    )  # fmt: skip
    _export(request, folder / "root")
    return Served("MiniLM", folder / "root", [text.encode() for text in texts], "text/plain")


def _export(request: ModelRequest, root: Path) -> None:
    outputs = create_task(LabelMap(request.labels, multi_label=False)).artifact_fields()
    export(root / "model", load_backbone(request), ArtifactContents(request.task, outputs, {}))
