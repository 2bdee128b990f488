"""Tiny exported models for the artifact tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from finetune.config.hyperparameters import ModelSpec, TaskName
from finetune.config.parse import parse_hyperparameters
from finetune.data.labels import LabelMap
from finetune.data.record import Content
from finetune.data.transforms.base import Transform
from finetune.export.export import ArtifactContents, export
from finetune.export.verify import VerificationSample
from finetune.job.data.loaders import build_transform
from finetune.models.backbone import Backbone, ImageInput
from finetune.models.load import ModelRequest, load_backbone
from finetune.tasks.create import create_task

LABELS = ("cat", "dog", "émeu")


@dataclass(frozen=True)
class ModelSetup:
    """The model to build: its name, or the folder of a `model` channel."""

    name: str | None
    folder: Path | None = None
    task: TaskName = "image-classification"
    labels: tuple[str, ...] = LABELS
    multi_label: bool = False
    image_size: int | None = 32
    metrics: dict[str, object] = field(default_factory=lambda: {"accuracy": 0.75})

    def build(self, scratch: Path) -> Backbone:
        """The model, with a head wide enough for outputs that differ between records."""
        request = ModelRequest(
            spec=ModelSpec(name=self.name),
            task=self.task,
            labels=self.labels,
            problem_type="multi_label_classification" if self.multi_label else "single_label_classification",
            pretrained=self.folder is not None,
            image_size=self.image_size if self.task == "image-classification" else None,
            max_length=16 if self.task == "text-classification" else None,
            seed=1,
            model_channel=self.folder,
            baked_weights=None,
            scratch=scratch,
        )
        backbone = load_backbone(request)
        head = dict(backbone.module.named_parameters())
        if isinstance(backbone.expects, ImageInput):
            _calibrate_batchnorm(backbone, backbone.expects.size)
        with torch.no_grad():
            for name in backbone.layer_groups()[-1].parameters:
                head[name].mul_(4.0)
        backbone.module.eval()
        return backbone

    def export(self, folder: Path, backbone: Backbone, texts_per_record: int = 1) -> None:
        """Export the model to `folder`."""
        outputs = create_task(LabelMap(self.labels, self.multi_label)).artifact_fields()
        contents = ArtifactContents(self.task, outputs, self.metrics, texts_per_record)
        export(folder, backbone, contents)


def evaluate(backbone: Backbone, contents: Sequence[Content], *, multi_label: bool = False) -> list[VerificationSample]:
    """Predictions of the job's evaluation for `contents`, in a single batch."""
    transform = transform_of(backbone)
    with torch.inference_mode():
        batch = transform.collate([transform(content, None) for content in contents])
        logits: Tensor = backbone.forward(batch).logits
    rows = (logits.sigmoid() if multi_label else logits.softmax(dim=1)).tolist()
    return [
        VerificationSample(f"record {i}", content, tuple(row))
        for i, (content, row) in enumerate(zip(contents, rows, strict=True))
    ]


def transform_of(backbone: Backbone) -> Transform:
    """The evaluation transform, as a job sets it up."""
    return build_transform(backbone.expects, parse_hyperparameters({}))


def _calibrate_batchnorm(backbone: Backbone, size: int) -> None:
    """Run noise through batch normalization: with random weights, its initial statistics fit no layer."""
    noise = torch.randint(0, 256, (8, 3, size, size), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    for module in backbone.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    backbone.module.train()
    with torch.no_grad():
        for _ in range(4):
            backbone.forward({"pixels": noise})
