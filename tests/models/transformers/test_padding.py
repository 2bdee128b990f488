"""The padding token is embedded by the model and does not change outputs, or the folder is rejected."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.data.bad_records import BadRecordError
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
from tests.support.tiny_transformers import write_folder, write_tokenizer


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert", "bert", labels=("no", "yes"))


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "gpt2", "gpt2", labels=("no", "yes"))


@pytest.fixture
def roberta(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "roberta", "roberta", labels=("no", "yes"))


def test_roberta_keeps_the_pad_token_id_of_its_weights(roberta: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(roberta / "config.json", pad_token_id=1)
    texts = [*TEXTS[:2], ("qzx the qzx",)]
    with caplog.at_level(logging.WARNING, "finetune"):
        backbone = load(roberta)
    assert torch.allclose(probabilities(backbone, texts), reference(roberta, texts), atol=2e-6)
    assert "has pad_token_id=1, but the tokenizer pads with '[PAD]' (0): padding with '[UNK]' (1)" in caplog.text
    assert backbone.module.config.pad_token_id == 1  # type: ignore[union-attr]  # a module has no config
    assert input_of(backbone).tokenizer.pad_token_id == 1


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (4, "pad_token_id=4, but the tokenizer pads with '[PAD]' (0), and its token 4 is 'the'"),
        (15, "pad_token_id=15, but the embeddings have 15 rows"),
        (-1, "pad_token_id=-1, but the embeddings have 15 rows"),
        (None, "has no pad_token_id, from which its positions are counted"),
    ],
)
def test_invalid_pad_token_id_of_roberta_is_refused(number: int | None, reason: str, roberta: Path) -> None:
    change(roberta / "config.json", pad_token_id=number)
    assert reason in load_error(roberta)


@pytest.mark.parametrize("number", [None, 2, 0])
def test_other_encoders_keep_their_pad_token_id(number: int | None, bert: Path) -> None:
    change(bert / "config.json", pad_token_id=number)
    backbone = load(bert)
    assert backbone.module.config.pad_token_id == number  # type: ignore[union-attr]  # a module has no config
    assert torch.allclose(probabilities(backbone, TEXTS[:3]), reference(bert, TEXTS[:3]), atol=2e-6)


def test_pad_token_id_beyond_the_embeddings_is_refused(bert: Path) -> None:
    change(bert / "config.json", pad_token_id=15)
    assert "pad_token_id=15, but the embeddings have 15 rows" in load_error(bert)


def without_padding(folder: Path) -> None:
    del folder


def with_padding_beyond(folder: Path) -> None:
    add_token(folder, "[LATER]", pad_token=None)


def with_padding_beyond_in_both(folder: Path) -> None:
    add_token(folder, "[LATER]", pad_token=None)
    change(folder / "config.json", pad_token_id=15)


def with_padding_of_the_configuration(folder: Path) -> None:
    change(folder / "config.json", pad_token_id=1)


def with_negative_padding(folder: Path) -> None:
    change(folder / "config.json", pad_token_id=-1)


def padding_left(folder: Path) -> None:
    write_tokenizer(folder, padded=False, padding_side="left")


@pytest.mark.parametrize(
    "prepare",
    [
        without_padding,
        with_padding_beyond,
        with_padding_beyond_in_both,
        with_padding_of_the_configuration,
        with_negative_padding,
        padding_left,
    ],
)
def test_gpt2_padding_does_not_change_logits(prepare: Callable[[Path], None], gpt2: Path) -> None:
    prepare(gpt2)
    texts = [("the cat sat on the mat",), ("a dog",), ("up",), ("the qzx",)]
    backbone = load(gpt2)
    assert torch.allclose(probabilities(backbone, texts), reference(gpt2, texts), atol=2e-6)
    saved = gpt2.parent / "saved"
    saved.mkdir()
    backbone.save(saved)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(saved)
    network: Any = AutoModelForSequenceClassification.from_pretrained(saved).eval()
    batch = tokenizer([text for (text,) in texts], padding=True, return_tensors="pt")
    assert torch.allclose(network(**batch).logits.softmax(1), probabilities(backbone, texts), atol=2e-6)


def test_replaced_padding_token_is_logged(gpt2: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_padding_beyond(gpt2)
    with caplog.at_level(logging.WARNING, "finetune"):
        backbone = load(gpt2)
    assert "pads with '[LATER]' (15), for which the model has no embedding (vocab_size=15): padding with" in caplog.text
    with pytest.raises(BadRecordError, match=r"contains the token '\[LATER\]' \(15\), but the model has 15 token"):
        transform_of(backbone)(("the [LATER] cat",), None)


def test_text_ending_in_the_padding_token_is_logged(gpt2: Path, caplog: pytest.LogCaptureFixture) -> None:
    transform = transform_of(load(gpt2))
    with caplog.at_level(logging.WARNING, "finetune"):
        transform(("the cat",), None)
        assert not caplog.records
        transform(("the cat [SEP]",), None)
        transform(("a dog [SEP]",), None)
    assert caplog.text.count("A text ends in '[SEP]', which is also the padding token") == 1


def test_final_template_token_is_not_used_for_padding(gpt2: Path) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(gpt2)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    tokenizer.save_pretrained(gpt2)
    texts = [("the cat sat",), ("a",)]
    assert torch.allclose(probabilities(load(gpt2), texts), reference(gpt2, texts), atol=2e-6)
