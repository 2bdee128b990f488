"""Every tested architecture is a complete Backbone, whose groups are found from its structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.export.verify import tolerance_on, verify
from finetune.models.backbone import Backbone
from finetune.models.transformers.families import TESTED_IMAGE_TYPES, TESTED_TEXT_TYPES
from finetune.strategies.freezing import apply_trainable
from tests.support.architectures import (
    IMAGE_OPTIONS,
    LAST_TOKEN_TYPES,
    TEXT_OPTIONS,
    UNDIVIDED_TYPES,
    write_architecture,
)
from tests.support.artifact_images import encode_image, make_image
from tests.support.exported_models import LABELS, ModelSetup, evaluate
from tests.support.model_requests import assert_is_partition, inputs_of, logits_of

# Modules of DeBERTa and BLOOM still use torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

TEXTS = ["the cat sat", "a dog ran away up the mat", "a"]
CPU = tolerance_on("cpu")


@pytest.fixture(scope="module", params=[*TEXT_OPTIONS, *IMAGE_OPTIONS])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_architecture(tmp_path_factory.mktemp("folder") / request.param, request.param)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    task: Any = "text-classification" if folder.name in TEXT_OPTIONS else "image-classification"
    return ModelSetup(None, folder, task=task).build(folder.parent / "scratch")


def test_every_architecture_that_is_not_checked_at_the_start_is_tested() -> None:
    assert TEXT_OPTIONS.keys() - UNDIVIDED_TYPES == TESTED_TEXT_TYPES
    assert IMAGE_OPTIONS.keys() - UNDIVIDED_TYPES == TESTED_IMAGE_TYPES


def test_documentation_lists_the_tested_architectures() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "model-folders.md").read_text(encoding="utf-8")
    table = page.partition("<!-- architectures:begin -->")[2].partition("<!-- architectures:end -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[2:]]
    kinds = {**dict.fromkeys(TEXT_OPTIONS, "texts"), **dict.fromkeys(IMAGE_OPTIONS, "images")}
    assert {name.strip("`"): kind for name, kind, _ in rows} == kinds
    assert {name.strip("`") for name, _, groups in rows if groups.startswith("one group")} == UNDIVIDED_TYPES


def test_groups_partition_the_parameters(backbone: Backbone, folder: Path) -> None:
    assert_is_partition(backbone)
    names = [group.name for group in backbone.layer_groups()]
    assert (names == ["encoder", "head"]) == (folder.name in UNDIVIDED_TYPES)
    assert backbone.weights.initialized_outside_head == ()


def test_every_split_reproduces_the_logits_bit_for_bit(backbone: Backbone) -> None:
    expected, inputs = logits_of(backbone), inputs_of(backbone)
    assert not torch.equal(expected[0], expected[1])
    for split_index in range(1, len(backbone.layer_groups())):
        split = backbone.split(split_index)
        with torch.no_grad():
            assert torch.equal(split.suffix(split.prefix(inputs)).logits, expected), split_index


def test_padding_does_not_change_logits(backbone: Backbone) -> None:
    inputs = inputs_of(backbone)
    if "attention_mask" in inputs:
        length = int(inputs["attention_mask"][1].sum())
        alone = {name: tensor[1:, :length] for name, tensor in inputs.items()}
        with torch.inference_mode():
            assert torch.allclose(backbone.forward(alone).logits, logits_of(backbone)[1:], atol=1e-5)


def test_one_step_changes_exactly_the_trainable_groups(folder: Path) -> None:
    task: Any = "text-classification" if folder.name in TEXT_OPTIONS else "image-classification"
    backbone = ModelSetup(None, folder, task=task).build(folder.parent / "scratch")
    groups = backbone.layer_groups()
    trainable = {group.name for group in groups[-2:]} if len(groups) > 2 else {"head"}
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    apply_trainable(backbone, trainable)
    outputs = backbone.split(len(groups) - len(trainable))
    logits = outputs.suffix(outputs.prefix(inputs_of(backbone))).logits
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]  # in torch
    parameters = [parameter for parameter in backbone.module.parameters() if parameter.requires_grad]
    torch.optim.SGD(parameters, lr=0.5).step()
    after = backbone.module.state_dict()
    owners = {name: group.name for group in groups for name in group.parameters}
    changed = {owners[name] for name in owners if not torch.equal(before[name], after[name])}
    assert changed == trainable


@pytest.mark.slow
def test_artifact_reproduces_the_predictions_in_its_handler_and_in_transformers(
    backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    from transformers import pipeline

    is_text = folder.name in TEXT_OPTIONS
    task: Any = "text-classification" if is_text else "image-classification"
    setup = ModelSetup(None, folder, task=task)
    setup.export(tmp_path / "model", backbone)
    images = [make_image(seed, size=(32, 32)) for seed in range(3)]
    samples = evaluate(backbone, [(text,) for text in TEXTS] if is_text else list(map(encode_image, images)))
    assert verify(tmp_path / "model", samples, CPU) <= CPU
    again = ModelSetup(None, tmp_path / "model", task=task).build(tmp_path / "scratch")
    assert again.weights.kept_head
    assert [group.name for group in again.layer_groups()] == [group.name for group in backbone.layer_groups()]
    classify: Any = pipeline(task, model=str(tmp_path / "model"), device="cpu")
    for record, sample in zip(TEXTS if is_text else images, samples, strict=True):
        answers = {answer["label"]: answer["score"] for answer in classify(record, top_k=None)}
        assert [answers[label] for label in LABELS] == pytest.approx(sample.probabilities, abs=CPU)


def test_decoders_read_the_last_token(backbone: Backbone, folder: Path) -> None:
    if folder.name in LAST_TOKEN_TYPES:
        tokenizer: Any = backbone.expects.tokenizer  # type: ignore[union-attr]  # a text model
        assert backbone.module.config.pad_token_id == tokenizer.pad_token_id  # type: ignore[union-attr]
        # The class of Qwen's tokenizer has a padding token.
        if folder.name != "qwen2":
            assert "padded with '[SEP]': the tokenizer has no padding token" in backbone.expects.describe()
