"""Weights that cover a model only partly: for every architecture, equal to transformers or rejected by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import get_model

from finetune.config.hyperparameters import TaskName
from finetune.errors import UserError
from finetune.models.backbone import Backbone
from finetune.models.load import load_backbone
from tests.support.model_requests import logits_of, request_model
from tests.support.tiny_transformers import IMAGE_TYPES, TEXT_TYPES, write_folder

# DeBERTa's modules still use torch.jit.script at import.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

CLASSES = ("bird", "cat", "dog")
State = dict[str, Tensor]
# The last layer of each family and a tensor of its body, by their names in saved files.
BODY = {
    "bert": "bert.encoder.layer.1.output.dense.weight",
    "distilbert": "distilbert.transformer.layer.1.ffn.lin2.weight",
    "roberta": "roberta.encoder.layer.1.output.dense.weight",
    "deberta": "deberta.encoder.layer.1.output.dense.weight",
    "deberta-v2": "deberta.encoder.layer.1.output.dense.weight",
    "electra": "electra.encoder.layer.1.output.dense.weight",
    "gpt2": "transformer.h.1.mlp.c_proj.weight",
    "vit": "vit.encoder.layer.1.output.dense.weight",
    "swin": "swin.encoder.layers.1.blocks.0.output.dense.weight",
    "resnet": "resnet.encoder.stages.1.layers.0.layer.0.convolution.weight",
}
# Tensors of the head before the last layer.
INNER_HEAD = {
    "bert": "bert.pooler.dense.weight",
    "distilbert": "pre_classifier.bias",
    "roberta": "classifier.dense.weight",
    "deberta": "pooler.dense.weight",
    "deberta-v2": "pooler.dense.bias",
    "electra": "classifier.dense.bias",
}


# Names of the encoder, and paths of the classifier, that differ from the usual ones.
ENCODERS = {"deberta-v2": "deberta", "gpt2": "transformer"}
CLASSIFIERS = {
    "roberta": "classifier.out_proj",
    "electra": "classifier.out_proj",
    "gpt2": "score",
    "resnet": "classifier.1",
}


def task_of(model_type: str) -> TaskName:
    return "text-classification" if model_type in TEXT_TYPES else "image-classification"


def classifier_of(model_type: str) -> str:
    return f"{CLASSIFIERS.get(model_type, 'classifier')}.weight"


@pytest.fixture(scope="module", params=[*TEXT_TYPES, *IMAGE_TYPES])
def complete(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("whole") / request.param, request.param, labels=CLASSES)


def write_changed(complete: Path, folder: Path, change: Callable[[State], None]) -> Path:
    """A copy of a folder with modified tensors."""
    folder.mkdir()
    for file in complete.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    state = {name: tensor.clone() for name, tensor in load_file(complete / "model.safetensors").items()}
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def drop_tensors(*names: str) -> Callable[[State], None]:
    def drop(state: State) -> None:
        for name in names:
            del state[name]

    return drop


def load_for_evaluation(folder: Path, model_type: str, scratch: Path) -> Backbone:
    return load_backbone(
        request_model(
            None,
            scratch,
            task=task_of(model_type),
            labels=CLASSES,
            channel=folder,
            trained=False,
            reinitialize="auto",
        )
    )


def load_for_training(folder: Path, model_type: str, scratch: Path, **options: Any) -> Backbone:  # noqa: ANN401 - arguments of `ask`
    return load_backbone(
        request_model(None, scratch, task=task_of(model_type), labels=CLASSES, channel=folder, **options)
    )


def refusal(folder: Path, model_type: str, scratch: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_for_evaluation(folder, model_type, scratch)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def load_with_transformers(folder: Path, model_type: str) -> Any:  # noqa: ANN401 - classes differ
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    texts = task_of(model_type) == "text-classification"
    builder: Any = AutoModelForSequenceClassification if texts else AutoModelForImageClassification
    return builder.from_pretrained(folder).eval()


def test_every_family_is_covered() -> None:
    assert set(BODY) == {*TEXT_TYPES, *IMAGE_TYPES}


def test_complete_folder_loads_the_same_tensors_as_transformers(complete: Path, tmp_path: Path) -> None:
    backbone = load_for_evaluation(complete, complete.name, tmp_path)
    expected = load_with_transformers(complete, complete.name).state_dict()
    loaded = backbone.module.state_dict()
    assert (
        backbone.weights.newly_initialized == backbone.weights.unused == backbone.weights.initialized_outside_head == ()
    )
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_converted(half: torch.dtype, complete: Path, tmp_path: Path) -> None:
    def convert(state: State) -> None:
        state.update({name: value.to(half) for name, value in state.items() if value.is_floating_point()})

    folder = write_changed(complete, tmp_path / "converted", convert)
    expected = {
        name: tensor.float() for name, tensor in load_with_transformers(folder, complete.name).state_dict().items()
    }
    loaded = load_for_evaluation(folder, complete.name, tmp_path).module.state_dict()
    assert all(torch.equal(loaded[name].float(), expected[name]) for name in expected)


def test_missing_body_tensor_is_refused(complete: Path, tmp_path: Path) -> None:
    folder = write_changed(complete, tmp_path / "part", drop_tensors(BODY[complete.name]))
    for load in (load_for_evaluation, load_for_training):
        with pytest.raises(UserError, match=r"belong to another model .* is missing"):
            load(folder, complete.name, tmp_path)


def test_reshaped_body_tensor_is_refused(complete: Path, tmp_path: Path) -> None:
    def reshape(state: State) -> None:
        state[BODY[complete.name]] = state[BODY[complete.name]][:-1].clone()

    folder = write_changed(complete, tmp_path / "part", reshape)
    for load in (load_for_evaluation, load_for_training):
        with pytest.raises(UserError, match=r"belong to another model .* has shape \[.*\] instead of \["):
            load(folder, complete.name, tmp_path)


def test_reused_head_without_its_weight_is_refused(complete: Path, tmp_path: Path) -> None:
    name = classifier_of(complete.name)
    folder = write_changed(complete, tmp_path / "part", drop_tensors(name))
    assert "top layer" in refusal(folder, complete.name, tmp_path)
    backbone = load_for_training(folder, complete.name, tmp_path)
    assert not backbone.weights.kept_head
    assert name in backbone.weights.newly_initialized
    with pytest.raises(UserError, match=r"reinitialize_top_layer=false, but the (top layer of the )?weights"):
        load_for_training(folder, complete.name, tmp_path, reinitialize="false")


def test_reused_head_without_its_bias_is_refused(complete: Path, tmp_path: Path) -> None:
    bias = classifier_of(complete.name).replace("weight", "bias")
    if complete.name == "gpt2":
        return  # its last layer has no bias
    folder = write_changed(complete, tmp_path / "part", drop_tensors(bias))
    assert f"top layer of the weights is incomplete: {bias} is missing" in refusal(folder, complete.name, tmp_path)
    backbone = load_for_training(folder, complete.name, tmp_path)
    assert not backbone.weights.kept_head
    assert {bias, classifier_of(complete.name)} <= set(backbone.weights.newly_initialized)
    assert f"{bias} is missing" in backbone.weights.warnings[0]


def test_classifier_rows_must_match_the_configuration(complete: Path, tmp_path: Path) -> None:
    name = classifier_of(complete.name)

    def cut(state: State) -> None:
        state[name] = state[name][:2].clone()

    folder = write_changed(complete, tmp_path / "part", cut)
    assert f"has 3 classes, but {name} has 2 rows" in refusal(folder, complete.name, tmp_path)
    assert not load_for_training(folder, complete.name, tmp_path, reinitialize="true").weights.kept_head


def test_classifier_of_another_width_is_refused(complete: Path, tmp_path: Path) -> None:
    name = classifier_of(complete.name)

    def narrow(state: State) -> None:
        state[name] = state[name][:, :-1].clone()

    folder = write_changed(complete, tmp_path / "part", narrow)
    assert f"top layer of the weights is incomplete: {name} has shape" in refusal(folder, complete.name, tmp_path)
    assert not load_for_training(folder, complete.name, tmp_path).weights.kept_head


@pytest.mark.parametrize("model_type", INNER_HEAD)
def test_reused_head_without_an_inner_tensor_is_refused(model_type: str, tmp_path: Path) -> None:
    complete, name = write_folder(tmp_path / model_type, model_type, labels=CLASSES), INNER_HEAD[model_type]
    folder = write_changed(complete, tmp_path / "part", drop_tensors(name))
    assert f"top layer of the weights is incomplete: {name} is missing" in refusal(folder, model_type, tmp_path)
    backbone = load_for_training(folder, model_type, tmp_path)
    assert not backbone.weights.kept_head
    assert {name, classifier_of(model_type)} <= set(backbone.weights.newly_initialized)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantized_tensors_are_refused(dtype: torch.dtype, complete: Path, tmp_path: Path) -> None:
    def quantize(state: State) -> None:
        state[BODY[complete.name]] = state[BODY[complete.name]].to(dtype)

    message = refusal(write_changed(complete, tmp_path / "part", quantize), complete.name, tmp_path)
    assert f"{BODY[complete.name]} has type {str(dtype).removeprefix('torch.')}" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float, complete: Path, tmp_path: Path) -> None:
    def spoil(state: State) -> None:
        state[BODY[complete.name]].view(-1)[0] = value

    folder = write_changed(complete, tmp_path / "part", spoil)
    assert "contain values that are not finite" in refusal(folder, complete.name, tmp_path)


def test_more_layers_than_the_configuration_has_are_refused(complete: Path, tmp_path: Path) -> None:
    body = BODY[complete.name]

    def add(state: State) -> None:
        state[body.replace(".1.", ".2.", 1)] = state[body].clone()

    assert "is unexpected" in refusal(write_changed(complete, tmp_path / "part", add), complete.name, tmp_path)


def test_heads_of_other_tasks_are_logged_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    complete = write_folder(tmp_path / "bert", "bert", labels=CLASSES)
    names = ("cls.predictions.bias", "qa_outputs.weight", "lm_head.weight")
    folder = write_changed(
        complete, tmp_path / "more", lambda state: state.update({name: torch.zeros(2) for name in names})
    )
    with caplog.at_level("INFO", logger="finetune"):
        backbone = load_for_evaluation(folder, "bert", tmp_path)
    assert backbone.weights.unused == tuple(sorted(names))
    assert torch.equal(logits_of(backbone), logits_of(load_for_evaluation(complete, "bert", tmp_path)))
    assert "Unused tensors of the source: cls.predictions.bias, lm_head.weight, qa_outputs.weight" in caplog.text


def test_head_of_another_task_named_like_the_classifier_is_refused(tmp_path: Path) -> None:
    complete = write_folder(tmp_path / "roberta", "roberta", labels=CLASSES)

    def flat(state: State) -> None:
        for name in [name for name in state if name.startswith("classifier.")]:
            del state[name]
        state |= {"classifier.weight": torch.zeros(3, 16), "classifier.bias": torch.zeros(3)}

    message = refusal(write_changed(complete, tmp_path / "tokens", flat), "roberta", tmp_path)
    assert "classifier.bias is unexpected" in message


def test_newly_initialized_pooler_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    complete = write_folder(tmp_path / "bert", "bert", labels=("other", "names"))
    folder = write_changed(
        complete, tmp_path / "part", drop_tensors("bert.pooler.dense.weight", "bert.pooler.dense.bias")
    )
    with caplog.at_level("WARNING", logger="finetune"):
        backbone = load_for_training(folder, "bert", tmp_path)
    named = "bert.pooler.dense.bias, bert.pooler.dense.weight"
    assert backbone.weights.initialized_outside_head == tuple(named.split(", "))
    assert backbone.weights.summary.endswith(f", new head, newly initialized: {named}")
    assert f"The weights lack these tensors besides the classifier, which are newly initialized: {named}" in caplog.text


def test_missing_counters_of_batch_normalization_are_zero(tmp_path: Path) -> None:
    complete = write_folder(tmp_path / "resnet", "resnet", labels=CLASSES)

    def without_counters(state: State) -> None:
        for name in [name for name in state if name.endswith("num_batches_tracked")]:
            del state[name]

    backbone = load_for_evaluation(write_changed(complete, tmp_path / "part", without_counters), "resnet", tmp_path)
    counters = [value for name, value in backbone.module.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counters
    assert not torch.stack(counters).any()
    assert backbone.weights.kept_head
    assert torch.equal(logits_of(backbone), logits_of(load_for_evaluation(complete, "resnet", tmp_path)))


@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_missing_statistics_of_batch_normalization_are_refused(statistic: str, tmp_path: Path) -> None:
    complete = write_folder(tmp_path / "resnet", "resnet", labels=CLASSES)
    name = f"resnet.embedder.embedder.normalization.{statistic}"
    folder = write_changed(complete, tmp_path / "part", drop_tensors(name))
    assert f"{name} is missing" in refusal(folder, "resnet", tmp_path)


def test_encoder_without_model_prefix_is_loaded(complete: Path, tmp_path: Path) -> None:
    base = ENCODERS.get(complete.name, complete.name)

    def encoder_alone(state: State) -> None:
        inside = {name.removeprefix(f"{base}."): value for name, value in state.items() if name.startswith(f"{base}.")}
        state.clear()
        state |= inside

    backbone = load_for_training(write_changed(complete, tmp_path / "encoder", encoder_alone), complete.name, tmp_path)
    expected = load_for_evaluation(complete, complete.name, tmp_path).module.state_dict()
    assert not backbone.weights.kept_head
    loaded = backbone.module.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected if name.startswith(f"{base}."))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model."])
def test_wrapper_prefix_is_stripped(prefix: str, tmp_path: Path) -> None:
    complete = write_folder(tmp_path / "bert", "bert", labels=CLASSES)

    def wrap(state: State) -> None:
        wrapped = {f"{prefix}{name}": value for name, value in state.items()}
        state.clear()
        state |= wrapped

    backbone = load_for_evaluation(write_changed(complete, tmp_path / "wrapped", wrap), "bert", tmp_path)
    assert torch.equal(logits_of(backbone), logits_of(load_for_evaluation(complete, "bert", tmp_path)))
    assert "read the tensors without the prefix" in backbone.weights.warnings[0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"),
        ("bert.embeddings.LayerNorm.bias", "embeddings.LayerNorm.bias"),
    ],
)
def test_duplicate_tensors_are_refused(first: str, second: str, tmp_path: Path) -> None:
    complete = write_folder(tmp_path / "bert", "bert", labels=CLASSES)
    folder = write_changed(complete, tmp_path / "more", lambda state: state.update({second: state[first] + 1}))
    message = refusal(folder, "bert", tmp_path)
    assert "contains the same tensor under two names" in message
    assert first in message
    assert second in message


def test_artifact_with_fewer_labels_than_rows_is_refused(tmp_path: Path) -> None:
    state = get_model("resnet18", weights=None, num_classes=3).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    artifact = {"framework": "torchvision", "architecture": "resnet18", "labels": ["bird", "cat"]}
    (tmp_path / "artifact.json").write_text(json.dumps(artifact))
    with pytest.raises(UserError, match="names 2 classes, but the classifier has 3 rows"):
        load_backbone(request_model(None, tmp_path, channel=tmp_path, labels=("bird", "cat")))
