"""A model's tokens equal those of its folder's tokenizer and fit its embeddings, or the folder is rejected."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import UserError
from tests.support.text_folders import (
    TEXTS,
    add_token,
    change,
    input_of,
    load,
    load_error,
    probabilities,
    reference,
    transform_of,
)
from tests.support.tiny_transformers import TEXT_TYPES, WORDS, write_folder, write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert", "bert", labels=("no", "yes"))


@pytest.mark.parametrize("model_type", TEXT_TYPES)
def test_logits_match_transformers_for_every_family(model_type: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / model_type, model_type, labels=("no", "yes"))
    limit = input_of(load(folder)).max_length
    expected = reference(folder, TEXTS, max_length=limit)
    assert torch.allclose(probabilities(load(folder), TEXTS), expected, atol=2e-6)


WORD_PIECES = (*WORDS, "##s", "##at", "c", "Cat", "caf\u00e9", "cafe", "\u4e2d", ",", ";", "!", "[MASK]")


def write_vocabulary(folder: Path, **options: object) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "vocab.txt").write_text("\n".join(WORD_PIECES), encoding="utf-8")
    if options:
        change(folder / "tokenizer_config.json", **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"tokenize_chinese_chars": False},
        {"model_max_length": 7},
        {"truncation_side": "left", "model_max_length": 7},
        {"padding_side": "left"},
        {"model_input_names": ["input_ids", "attention_mask"]},
        {"model_input_names": ["input_ids"]},
        {"split_special_tokens": True},
        {"tokenizer_class": "BertTokenizerFast"},
        {"tokenizer_class": "DistilBertTokenizer"},
        {"added_tokens_decoder": {"8": {"content": "sat", "lstrip": True, "special": True}}},
        {"added_tokens_decoder": {"8": {"content": "sat", "single_word": True, "normalized": True, "special": False}}},
        {"model_max_length": 10**30},
        {"sep_token": "up", "cls_token": "in"},
    ],
)
def test_tokenizer_properties_match_transformers(options: dict[str, object], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = write_folder(tmp_path / "bert", "bert", labels=("no", "yes"), vocab_size=len(WORD_PIECES))
    write_vocabulary(folder, **options)
    backbone = load(folder)
    limit, transform, own = input_of(backbone).max_length, transform_of(backbone), AutoTokenizer.from_pretrained(folder)
    saved = tmp_path / "saved"
    saved.mkdir()
    backbone.save(saved)
    again: Any = AutoTokenizer.from_pretrained(saved)
    for text in TEXTS:
        encoding = own(*[[part] for part in text], truncation=True, max_length=limit)
        made = transform(text, None)
        assert {name: values.tolist() for name, values in made.items() if name in encoding} == {
            name: values[0] for name, values in encoding.items()
        }
        exported = again(*[[part] for part in text], truncation=True, max_length=limit)
        assert {name: values.tolist() for name, values in made.items()} == {
            name: values[0] for name, values in exported.items()
        }
    assert again.padding_side == "right"
    expected = reference(folder, TEXTS, max_length=limit)
    assert torch.allclose(probabilities(backbone, TEXTS), expected, atol=2e-6)


@pytest.mark.parametrize(
    "files", [{"tokenizer_config.json": "{}"}, {"special_tokens_map.json": "{}"}, {"vocab.json": "{}"}]
)
def test_a_tokenizer_without_its_vocabulary_is_refused(files: dict[str, str], bert: Path) -> None:
    for path in bert.glob("tokenizer*"):
        path.unlink()
    for name, content in files.items():
        (bert / name).write_text(content)
    assert "has no tokenizer: none of tokenizer.json, vocab.txt" in load_error(bert)


@pytest.mark.parametrize("content", ["", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]"])
def test_tokenizer_with_only_special_tokens_is_refused(content: str, bert: Path) -> None:
    write_vocabulary(bert)
    (bert / "vocab.txt").write_text(content)
    assert "contains only special tokens" in load_error(bert)


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}']
)
def test_a_damaged_tokenizer_is_refused(content: str, bert: Path) -> None:
    (bert / "tokenizer.json").write_text(content)
    assert load_error(bert).startswith("The tokenizer in the model channel")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_max_length", "many"),
        ("model_max_length", float("inf")),
        ("model_input_names", 3),
        ("split_special_tokens", "yes"),
        ("truncation_side", "middle"),
        ("padding_side", 3),
    ],
)
def test_tokenizer_fields_of_the_wrong_type_are_refused(field: str, value: object, bert: Path) -> None:
    write_vocabulary(bert, **{field: value})
    change(bert / "config.json", vocab_size=len(WORD_PIECES))
    assert load_error(bert, pretrained=False).startswith("The tokenizer in the model channel cannot be used")


def test_tokenizer_that_fails_on_unknown_words_is_refused(bert: Path) -> None:
    tokenizer = json.loads((bert / "tokenizer.json").read_text())
    del tokenizer["model"]["vocab"]["[UNK]"]
    tokenizer["added_tokens"] = []
    (bert / "tokenizer.json").write_text(json.dumps(tokenizer))
    change(bert / "tokenizer_config.json", unk_token=None)
    assert "The tokenizer in the model channel cannot tokenize" in load_error(bert)


@pytest.mark.parametrize("model_type", TEXT_TYPES)
def test_added_tokens_without_embeddings_are_refused(model_type: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / model_type, model_type, labels=("no", "yes"))
    add_token(folder, "newword")
    message = load_error(folder)
    assert "has 16 tokens, but the embeddings of the model have 15 rows" in message
    assert "'newword' has the id 15" in message
    assert "resize_token_embeddings" in message
    assert "has 16 tokens" in load_error(folder, pretrained=False)


def test_more_embeddings_than_tokens_are_allowed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", "bert", labels=("no", "yes"), vocab_size=29)
    add_token(folder, "newword")
    text = [("the newword sat",)]
    assert torch.allclose(probabilities(load(folder), text), reference(folder, text), atol=2e-6)


def test_much_smaller_vocabulary_than_embeddings_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "bert", "bert", labels=("no", "yes"), vocab_size=100)
    with caplog.at_level(logging.WARNING, "finetune"):
        load(folder)
    assert "has 15 tokens, but the model's embeddings have 100 rows" in caplog.text


def test_template_token_ids_without_embeddings_are_refused(bert: Path) -> None:
    tokenizer = json.loads((bert / "tokenizer.json").read_text())
    tokenizer["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [101]
    (bert / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "produces the token id 101, but the model's embeddings have 15 rows" in load_error(bert)


def test_token_types_without_embeddings_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", "bert", labels=("no", "yes"), type_vocab_size=1)
    transform = transform_of(load(folder))
    transform(("the cat",), None)
    with pytest.raises(UserError, match=r"token types 0 to 1 .* only 1 \(type_vocab_size\)"):
        transform(("the cat", "a dog"), None)


@pytest.mark.parametrize("model_type", ["roberta", "gpt2", "distilbert"])
def test_token_types_of_a_generic_tokenizer_match_transformers(model_type: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / model_type, model_type, labels=("no", "yes"))
    write_tokenizer(folder, padded=model_type != "gpt2", token_types=True)
    texts = [("the cat", "a dog ran"), ("a mat",)]
    backbone = load(folder)
    assert ("token_type_ids" in transform_of(backbone)(texts[0], None)) == (model_type != "distilbert")
    options = {"return_token_type_ids": False} if model_type == "distilbert" else {}
    assert torch.allclose(probabilities(backbone, texts), reference(folder, texts, **options), atol=2e-6)


@pytest.mark.parametrize(
    "fields",
    [{"is_decoder": True}, {"output_hidden_states": True}, {"output_attentions": True}, {"hidden_act": "relu"}],
)
def test_configuration_fields_match_transformers(fields: dict[str, object], bert: Path) -> None:
    change(bert / "config.json", **fields)
    assert torch.allclose(probabilities(load(bert), TEXTS[:4]), reference(bert, TEXTS[:4]), atol=2e-6)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "distilbert"])
@pytest.mark.parametrize("fields", [{"return_dict": False}, {"chunk_size_feed_forward": 4}])
def test_fields_without_effect_on_logits_are_ignored(
    model_type: str, fields: dict[str, object], tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / model_type, model_type, labels=("no", "yes"))
    expected = reference(folder, TEXTS[:4])
    change(folder / "config.json", **fields)
    assert torch.allclose(probabilities(load(folder), TEXTS[:4]), expected, atol=2e-6)


def test_deberta_v2_length_is_limited_only_by_existing_positions(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "deberta-v2", "deberta-v2", labels=("no", "yes"), position_biased_input=True)
    assert input_of(load(folder)).max_length == 32
    assert "max_length=33 exceeds" in load_error(folder, max_length=33)


def test_evaluation_uses_the_max_length_of_transformers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "gpt2", "gpt2", labels=("no", "yes"), n_positions=1024)
    assert input_of(load(folder)).max_length == 512
    assert input_of(load(folder, trained=False)).max_length == 1000
    write_tokenizer(folder, padded=False, model_max_length=10**30)
    assert input_of(load(folder, trained=False)).max_length == 1024
    assert input_of(load(folder, trained=False, max_length=9)).max_length == 9


@pytest.mark.parametrize("length", [0, -1, 2])
def test_max_length_without_space_for_text_is_refused(length: int, bert: Path) -> None:
    write_tokenizer(bert, padded=True, model_max_length=length)
    assert "leaves no room for text after 2 special tokens" in load_error(bert)


def test_unconvertible_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "deberta-v2", "deberta-v2", labels=("no", "yes"))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "spm.model").write_bytes(b"\n\x0e\n\x05<unk>")
    assert "Convert it where sentencepiece is installed" in load_error(folder)
