"""Registry of the known model names and their builders."""

from __future__ import annotations

from collections.abc import Callable

from finetune.config.hyperparameters import TaskName
from finetune.errors import UserError, did_you_mean
from finetune.models.backbone import Backbone
from finetune.models.request import ModelRequest
from finetune.models.timm.build import PREFIX as TIMM_PREFIX
from finetune.models.timm.build import build_timm
from finetune.models.torchvision.build import build_torchvision
from finetune.models.torchvision.families import torchvision_names
from finetune.models.transformers.build import build_transformers
from finetune.models.weights.sources import Source
from finetune.models.weights.state_dict import read_state_file
from finetune.models.weights.unsupported_formats import refuse_foreign_tensors

Builder = Callable[[ModelRequest, Source], Backbone]

# Known hub names, for suggestions on misspelled ones; any other `owner/name` is accepted too.
HUB_MODELS: dict[str, TaskName] = {
    "albert-base-v2": "text-classification",
    "bert-base-cased": "text-classification",
    "bert-base-multilingual-cased": "text-classification",
    "bert-base-uncased": "text-classification",
    "bert-large-uncased": "text-classification",
    "camembert-base": "text-classification",
    "distilbert-base-cased": "text-classification",
    "distilbert-base-multilingual-cased": "text-classification",
    "distilbert-base-uncased": "text-classification",
    "distilgpt2": "text-classification",
    "distilroberta-base": "text-classification",
    "gpt2": "text-classification",
    "gpt2-medium": "text-classification",
    "roberta-base": "text-classification",
    "roberta-large": "text-classification",
    "xlm-roberta-base": "text-classification",
    "xlm-roberta-large": "text-classification",
    "answerdotai/ModernBERT-base": "text-classification",
    "google/electra-base-discriminator": "text-classification",
    "google/electra-small-discriminator": "text-classification",
    "microsoft/deberta-base": "text-classification",
    "microsoft/deberta-v3-base": "text-classification",
    "microsoft/deberta-v3-small": "text-classification",
    "sentence-transformers/all-MiniLM-L6-v2": "text-classification",
    "sentence-transformers/all-mpnet-base-v2": "text-classification",
    "facebook/dinov2-small": "image-classification",
    "google/vit-base-patch16-224": "image-classification",
    "google/vit-base-patch16-224-in21k": "image-classification",
    "microsoft/resnet-50": "image-classification",
    "microsoft/swin-tiny-patch4-window7-224": "image-classification",
}
_BUILDERS: dict[str, Builder] = {
    "torchvision artifact": build_torchvision,
    "state dict": build_torchvision,
    "timm folder": build_timm,
    "transformers folder": build_transformers,
}


def registered_models() -> dict[str, tuple[TaskName, Builder]]:
    """Return every known name with its task and its builder."""
    table: dict[str, tuple[TaskName, Builder]] = {}
    table.update(dict.fromkeys(torchvision_names(), ("image-classification", build_torchvision)))
    table.update({name: (task, build_transformers) for name, task in HUB_MODELS.items()})
    return table


def builder_for(request: ModelRequest, source: Source) -> Builder:
    """Return the builder for the model that `source` contains or names.

    Raises:
        UserError: the name is unknown or contradicts the source, or the model is not for the task.
    """
    builder = _BUILDERS.get(source.kind)
    if source.kind == "state dict" and (request.spec.name or "").startswith(TIMM_PREFIX):
        builder = build_timm
    if builder is None:
        return _builder_by_name(source.name or "", request.task)
    entry = registered_models().get(request.spec.name or "")
    if entry is not None and entry[1] is not builder:
        raise UserError(
            f"model_name={request.spec.name!r}, but the {source.location} contains a {source.kind}: omit model_name,"
            " or provide weights of that model."
        )
    if builder in (build_torchvision, build_timm) and request.task != "image-classification":
        if source.kind == "state dict" and source.path is not None:
            refuse_foreign_tensors(read_state_file(source.path).tensors, source.path, source.location)
        raise UserError(
            _wrong_task_message(f"The {source.location} contains a model for image-classification", request.task)
        )
    return builder


def _builder_by_name(name: str, task: TaskName) -> Builder:
    models = registered_models()
    if name in models:
        model_task, builder = models[name]
        if model_task != task:
            raise UserError(_wrong_task_message(f"model_name={name!r} is a model for {model_task}", task))
        return builder
    if name.startswith(TIMM_PREFIX):
        if task != "image-classification":
            raise UserError(_wrong_task_message(f"model_name={name!r} is a model for image-classification", task))
        return build_timm
    if name.count("/") == 1:
        return build_transformers
    raise UserError(
        f"model_name={name!r} is unknown{did_you_mean(name, models)}. Supported are torchvision's classifiers of the"
        " families ResNet, VGG, Inception, GoogLeNet, MobileNet, EfficientNet, DenseNet, ConvNeXt, ViT, Swin and"
        " RegNet; timm/NAME for classifiers of timm; distilbert-base-uncased, roberta-base, gpt2 and other models of"
        " the hub, and any 'owner/name' on the hub."
    )


def _wrong_task_message(fact: str, task: TaskName) -> str:
    return f"{fact}, but the task is {task}: choose another model, or check the data and `task`."
