"""Table of the supported torchvision families and their layer layouts."""

from __future__ import annotations

from torch import nn
from torchvision.models import get_model_builder, list_models

from finetune.models.layer_groups import Auxiliary, Children, ModelLayout


def _downsamples(_previous: nn.Module, child: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv2d) and layer.stride[0] > 1 for layer in child.modules())


def _follows_pooling(previous: nn.Module, _child: nn.Module) -> bool:
    return isinstance(previous, nn.MaxPool2d)


_STAGES = ("features.1", "features.2 features.3", "features.4 features.5", "features.6 features.7")

# Keyed by the name of the family's module in torchvision.
FAMILIES: dict[str, ModelLayout] = {
    "resnet": ModelLayout(
        stem="conv1 bn1 relu maxpool",
        body=("layer1", "layer2", "layer3", "layer4"),
        with_last="avgpool",
        head="fc",
        classifier="fc",
    ),
    "vgg": ModelLayout(
        body=(
            Children("features", _follows_pooling),
            "avgpool classifier.0 classifier.1",
            "classifier.2 classifier.3 classifier.4",
        ),
        head="classifier.5 classifier.6",
        classifier="classifier.6",
    ),
    "inception": ModelLayout(
        stem="Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1 Conv2d_3b_1x1 Conv2d_4a_3x3 maxpool2",
        body=(
            "Mixed_5b Mixed_5c Mixed_5d",
            "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e",
            "Mixed_7a Mixed_7b Mixed_7c",
        ),
        with_last="avgpool",
        head="dropout fc",
        classifier="fc",
        auxiliary=(Auxiliary("AuxLogits", "AuxLogits.fc", 0.4, "aux_logits"),),
    ),
    "googlenet": ModelLayout(
        stem="conv1 maxpool1 conv2 conv3 maxpool2",
        body=(
            "inception3a inception3b maxpool3",
            "inception4a inception4b inception4c inception4d inception4e maxpool4",
            "inception5a inception5b",
        ),
        with_last="avgpool",
        head="dropout fc",
        classifier="fc",
        auxiliary=(
            Auxiliary("aux1", "aux1.fc2", 0.3, "aux_logits1"),
            Auxiliary("aux2", "aux2.fc2", 0.3, "aux_logits2"),
        ),
    ),
    "mobilenetv2": ModelLayout(
        body=(Children("features", _downsamples),), head="classifier.0 classifier.1", classifier="classifier.1"
    ),
    "mobilenetv3": ModelLayout(
        body=(Children("features", _downsamples), "avgpool classifier.0 classifier.1"),
        head="classifier.2 classifier.3",
        classifier="classifier.3",
    ),
    "efficientnet": ModelLayout(
        body=(Children("features"),), with_last="avgpool", head="classifier.0 classifier.1", classifier="classifier.1"
    ),
    "densenet": ModelLayout(
        stem="features.conv0 features.norm0 features.relu0 features.pool0",
        body=(
            "features.denseblock1 features.transition1",
            "features.denseblock2 features.transition2",
            "features.denseblock3 features.transition3",
            "features.denseblock4",
        ),
        with_last="features.norm5",
        head="classifier",
        classifier="classifier",
    ),
    "convnext": ModelLayout(
        stem="features.0",
        body=_STAGES,
        with_last="avgpool classifier.0 classifier.1",
        head="classifier.2",
        classifier="classifier.2",
    ),
    "vision_transformer": ModelLayout(
        stem="conv_proj class_token encoder.pos_embedding encoder.dropout",
        body=(Children("encoder.layers"),),
        with_last="encoder.ln",
        head="heads",
        classifier="heads.head",
    ),
    "swin_transformer": ModelLayout(
        stem="features.0", body=_STAGES, with_last="norm permute avgpool flatten", head="head", classifier="head"
    ),
    "regnet": ModelLayout(
        stem="stem",
        body=tuple(f"trunk_output.block{number}" for number in (1, 2, 3, 4)),
        with_last="avgpool",
        head="fc",
        classifier="fc",
    ),
}


def family_of(name: str) -> str:
    """Return the family of a torchvision classifier, such as `resnet` for `wide_resnet50_2`."""
    return str(get_model_builder(name).__module__).rpartition(".")[2]


def torchvision_names() -> tuple[str, ...]:
    """Return the sorted names of all torchvision classifiers of supported families."""
    import torchvision.models

    return tuple(sorted(name for name in list_models(module=torchvision.models) if family_of(name) in FAMILIES))
