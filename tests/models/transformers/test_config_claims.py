"""Sizes in configurations and artifacts are checked before anything of that size is built."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.models.load import load_backbone
from finetune.models.weights import sources
from tests.support.model_requests import logits_of, request_model
from tests.support.tiny_transformers import write_folder

CLASSES = ("no", "yes")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert", "bert", labels=CLASSES)


def change(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(folder: Path, **options: Any) -> str:  # noqa: ANN401 - arguments of `ask`
    request = request_model(
        **{
            "name": None,
            "scratch": folder.parent,
            "task": "text-classification",
            "labels": CLASSES,
            "channel": folder,
            **options,
        }
    )
    with pytest.raises(UserError) as caught:
        load_backbone(request)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "unknown"}, "KeyError: 'unknown'"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "quant_method='bitsandbytes'",
        ),
        ({"_attn_implementation": "flash_attention_2"}, "_attn_implementation='flash_attention_2' is not available"),
        ({"attn_implementation": "owner/kernel"}, "attn_implementation='owner/kernel' is not available"),
        ({"hidden_dropout_prob": 7}, "dropout probability has to be between 0 and 1"),
        ({"vocab_size": -1}, "vocab_size=-1 is not allowed"),
        ({"num_attention_heads": 0}, "by zero"),
        ({"dtype": "float13"}, "float13"),
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps"),
        ({"id2label": {"first": "no"}}, "invalid literal for int"),
        ({"id2label": ["no", "yes"]}, "id2label"),
    ],
)
def test_unusable_configuration_is_refused(
    changes: dict[str, object], reason: str, pretrained: bool, bert: Path
) -> None:
    change(bert, **changes)
    message = refusal(bert, pretrained=pretrained)
    assert message.startswith("config.json in the model channel cannot be used: ")
    assert reason in message


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers=10000000 is more than the 1000 layers allowed"),
        ({"n_layers": 10**7}, "n_layers=10000000 is more"),
        ({"num_labels": 10**9, "id2label": None}, "num_labels=1000000000 is not allowed"),
        ({"num_labels": -1, "id2label": None}, "num_labels=-1 is not allowed"),
        ({"num_labels": 3}, "num_labels=3, but id2label has 2 classes"),
    ],
)
def test_excessive_sizes_are_refused_before_allocation(
    changes: dict[str, object], reason: str, pretrained: bool, bert: Path
) -> None:
    change(bert, **changes)
    tracemalloc.start()
    try:
        assert reason in refusal(bert, pretrained=pretrained)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depths", [[10**7, 1], [1] * 2000])
def test_excessive_depths_are_refused_before_allocation(depths: list[int], tmp_path: Path) -> None:
    for model_type in ("swin", "resnet"):
        folder = write_folder(tmp_path / f"{model_type}-{len(depths)}", model_type)
        change(folder, depths=depths)
        assert "more than the 1000 layers allowed" in refusal(folder, task="image-classification")


@pytest.mark.parametrize(
    "changes", [{"vocab_size": 10**11}, {"intermediate_size": 10**11}, {"max_position_embeddings": 10**11}]
)
def test_model_larger_than_its_weights_is_refused_before_allocation(changes: dict[str, object], bert: Path) -> None:
    change(bert, **changes)
    assert "values, but the weights contain" in refusal(bert)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_positions_without_weights_are_refused_before_allocation(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "deberta", "deberta-v2", labels=CLASSES)
    change(folder, max_position_embeddings=10**11)
    assert "values, but the weights contain" in refusal(folder, max_length=8)


def test_output_options_do_not_change_logits(bert: Path) -> None:
    def logits() -> Any:  # noqa: ANN401 - a tensor
        request = request_model(
            None, bert.parent, task="text-classification", labels=CLASSES, channel=bert, trained=False
        )
        return logits_of(load_backbone(request))

    whole = logits()
    change(bert, return_dict=False, chunk_size_feed_forward=3, torchscript=True, output_hidden_states=True)
    change(bert, output_attentions=True)
    assert (logits() - whole).abs().max() < 1e-6


@pytest.mark.parametrize("file", ["config.json", "artifact.json"])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deeply_nested_json_is_refused(opening: str, file: str, bert: Path) -> None:
    (bert / file).write_text('{"deep": ' + opening * 100_000)
    message = refusal(bert)
    assert message.startswith(f"{file} in the model channel cannot be read: it is nested too deeply")


@pytest.mark.parametrize("file", ["config.json", "artifact.json"])
def test_large_json_is_refused(file: str, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_JSON_BYTES", 1000)
    (bert / file).write_text(json.dumps({"much": "x" * 2000}))
    assert f"{file} in the model channel has 2012 bytes, more than the 1000 allowed" in refusal(bert)


@pytest.mark.parametrize(
    "name", ["x" * 300, "y/" * 3000, "/" + "z" * 1_000_000, "a\0b", "a\nb", "owner/" + "n" * 300, "\ud800"]
)
def test_invalid_model_names_are_refused(name: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, name=name, channel=None, baked=tmp_path)
    assert message.startswith("model_name=")
    assert " is unknown: provide the name of a classifier" in message
