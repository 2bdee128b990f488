"""Compares forward passes: split and whole model, folded batch normalization, and features in different batches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from finetune.config.hyperparameters import ModelSpec, Precision
from finetune.features.extractor import FeatureExtractor
from finetune.models.backbone import Backbone, ImageInput
from finetune.models.load import load_backbone
from finetune.models.request import ModelRequest
from finetune.models.splitting.split_model import ACTIVATION
from finetune.runtime.precision import choose_numerics
from gpu_check.results import Results, Table
from gpu_check.scale import Scale
from gpu_check.steps import choose_device
from gpu_check.tasks import CLASSES, IMAGE_MODEL, Task, image_task, text_task

TABLE = Table(
    "Exactness of forward passes",
    "In evaluation mode: logits of prefix and suffix, split before every layer group, compared with those of the whole"
    " model; activations before the head with and without folded batch normalization, where differences are relative to"
    " the largest activation; and activations of the same records in another order and among other records.",
    ("model, precision", "split at every group", "folded batch normalization", "features in other batches"),
)
_ROWS, _CHUNK = 48, 32


def check(scale: Scale, folder: Path, results: Results) -> None:
    """Add a row for each model and precision."""
    for task in (image_task(folder / "images", CLASSES, scale), text_task(folder / "texts", CLASSES, scale)):
        for precision in ("fp32", "bf16"):
            label = f"{task.name}, {precision}"
            try:
                results.add(TABLE, label, *_compare(task, scale, folder / "scratch", precision))
            except Exception as error:  # noqa: BLE001 - the other rows are independent
                results.add_error(TABLE, label, error)


def _compare(task: Task, scale: Scale, scratch: Path, precision: Precision) -> tuple[str, str, str]:
    device = choose_device()
    backbone = _load(task, scale, scratch)
    layout = torch.channels_last if task.kind == "images" else torch.preserve_format
    backbone.module.to(device, memory_format=layout)  # type: ignore[call-overload]  # not in torch's stub
    backbone.module.eval().requires_grad_(requires_grad=False)
    numerics = choose_numerics(precision, device)
    inputs = _inputs(backbone)
    return (
        _split_difference(backbone, {name: value.to(device) for name, value in inputs.items()}, numerics.context),
        _folding_difference(backbone, inputs, numerics.autocast, numerics.context),
        _batch_difference(backbone, inputs, numerics.context),
    )


def _load(task: Task, scale: Scale, scratch: Path) -> Backbone:
    return load_backbone(
        ModelRequest(
            spec=ModelSpec(name=IMAGE_MODEL if task.kind == "images" else None),
            task="image-classification" if task.kind == "images" else "text-classification",
            labels=tuple(f"class-{number}" for number in range(CLASSES)),
            problem_type="single_label_classification",
            pretrained=True,
            image_size=scale.image_size if task.kind == "images" else None,
            max_length=None,
            seed=1,
            model_channel=task.model,
            baked_weights=None,
            scratch=scratch,
        )
    )


def _inputs(backbone: Backbone) -> dict[str, Tensor]:
    """Random images, or texts of 3 to 50 tokens."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(backbone.expects, ImageInput):
        size = backbone.expects.size
        return {"pixels": torch.randint(0, 256, (_ROWS, 3, size, size), dtype=torch.uint8, generator=generator)}
    lengths = torch.arange(_ROWS) + 3
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).to(torch.int64)
    return {"input_ids": torch.randint(4, 30_000, mask.shape, generator=generator) * mask, "attention_mask": mask}


def _split_difference(
    backbone: Backbone, inputs: dict[str, Tensor], context: Callable[[], AbstractContextManager[object]]
) -> str:
    differences = []
    groups = backbone.layer_groups()
    with torch.no_grad(), context():
        expected = backbone.forward(inputs).logits
        for index in range(1, len(groups)):
            split = backbone.split(index)
            logits = split.suffix(split.prefix(inputs)).logits
            if not torch.equal(logits, expected):
                differences.append(f"before {groups[index].name} by at most {_largest(logits, expected):.1e}")
    return f"different: {', '.join(differences)}" if differences else f"equal bits at {len(groups) - 1} splits"


def _folding_difference(
    backbone: Backbone,
    inputs: dict[str, Tensor],
    dtype: torch.dtype | None,
    context: Callable[[], AbstractContextManager[object]],
) -> str:
    if not isinstance(backbone.expects, ImageInput):
        return "has none"
    split = backbone.split(len(backbone.layer_groups()) - 1)
    pixels = {name: value.to(choose_device()) for name, value in inputs.items()}
    folded_split = split.fold_batchnorms(dtype)
    with torch.no_grad(), context():
        expected = split.prefix(pixels)[ACTIVATION]
        folded = folded_split.prefix(pixels)[ACTIVATION]
    return f"{_largest(folded, expected) / float(expected.float().abs().max()):.1e}"


def _batch_difference(
    backbone: Backbone, inputs: dict[str, Tensor], context: Callable[[], AbstractContextManager[object]]
) -> str:
    expects = backbone.expects
    length = 1 if isinstance(expects, ImageInput) else expects.max_length
    split = backbone.split(len(backbone.layer_groups()) - 1)
    extractor = FeatureExtractor(split, _CHUNK, length, choose_device(), context)
    order = torch.randperm(_ROWS, generator=torch.Generator().manual_seed(0))[: _ROWS - 5]
    expected = _features(extractor, inputs)
    others = _features(extractor, {name: value[order] for name, value in inputs.items()})
    pairs = [(others[row], expected[int(source)]) for row, source in enumerate(order)]
    largest = max(_largest(feature, reference) for feature, reference in pairs)
    equal = all(torch.equal(feature, reference) for feature, reference in pairs)
    return "equal bits" if equal else f"different by at most {largest:.1e}"


def _features(extractor: FeatureExtractor, inputs: dict[str, Tensor]) -> dict[int, Tensor]:
    """The activation of each row."""
    count = len(next(iter(inputs.values())))
    return {
        int(row): value
        for rows, features in extractor.compute_rows(inputs, count)
        for row, value in zip(rows, features[ACTIVATION], strict=True)
    }


def _largest(first: Tensor, second: Tensor) -> float:
    return float((first.double() - second.double()).abs().max())
