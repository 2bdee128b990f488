"""The tokens that a model gets equal those of its folder's own tokenizer, and fit its embeddings, or it is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.data.bad_records import BadContent
from finetune.data.texts import TextTransform, TokenLimits
from finetune.errors import UserError
from finetune.models.backbone import Backbone, TextInput
from finetune.models.load import load_backbone
from models.asking import ask
from models.tiny_transformers import TEXT_TYPES, WORDS, write_folder, write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
TEXTS = (
    ("the cat sat on the mat",),
    ("a dog",),
    ("The CAT, ran; away!",),
    ("the [PAD] cat [SEP] [UNK]",),
    ("qzx \u4e2d\U0001f9ff caf\u00e9",),
    ("the " * 60,),
    ("the cat", "a dog ran away"),
    ("the " * 40, "a dog " * 30),
)


def load(folder: Path, **wishes: Any) -> Backbone:  # noqa: ANN401 - those of `ask`
    wishes = {"labels": ("no", "yes"), "channel": folder, **wishes}
    return load_backbone(ask(None, folder.parent, task="text-classification", **wishes))


def refusal(folder: Path, **wishes: Any) -> str:  # noqa: ANN401 - those of `ask`
    with pytest.raises(UserError) as caught:
        load(folder, **wishes)
    return str(caught.value)


def input_of(backbone: Backbone) -> TextInput:
    assert isinstance(backbone.expects, TextInput)
    return backbone.expects


def transform_of(backbone: Backbone) -> TextTransform:
    expects = input_of(backbone)
    limits = TokenLimits(expects.vocabulary, expects.token_types, expects.borrowed_padding)
    return TextTransform(expects.tokenizer, expects.max_length, limits=limits)


def probabilities(backbone: Backbone, texts: Sequence[tuple[str, ...]]) -> Tensor:
    """All texts in one batch, padded."""
    transform = transform_of(backbone)
    with torch.inference_mode():
        logits: Tensor = backbone.forward(transform.collate([transform(text, None) for text in texts])).logits
    return logits.softmax(1)


def reference(folder: Path, texts: Sequence[tuple[str, ...]], **options: Any) -> Tensor:  # noqa: ANN401 - the tokenizer's
    """Every text alone, by transformers with the folder's own tokenizer and what it gives."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for text in texts:
        batch = tokenizer(*[[part] for part in text], truncation=True, return_tensors="pt", **options)
        with torch.inference_mode():
            rows.append(network(**batch).logits.softmax(1)[0])
    return torch.stack(rows)


def change(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    content = {name: value for name, value in {**content, **changes}.items() if value is not KeyError}
    path.write_text(json.dumps(content))


def add_token(folder: Path, token: str, **special: object) -> None:
    """Add a token, as people do who forget the embeddings."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if special:
        tokenizer.add_special_tokens({**special, next(iter(special)): token})
    else:
        tokenizer.add_tokens([token])
    tokenizer.save_pretrained(folder)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert", "bert", labels=("no", "yes"))


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "gpt2", "gpt2", labels=("no", "yes"))


@pytest.fixture
def roberta(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "roberta", "roberta", labels=("no", "yes"))


@pytest.mark.parametrize("model_type", TEXT_TYPES)
def test_every_family_answers_as_transformers_does(model_type: str, tmp_path: Path) -> None:
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
def test_properties_of_a_tokenizer_count_as_in_transformers(options: dict[str, object], tmp_path: Path) -> None:
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
        given = own(*[[part] for part in text], truncation=True, max_length=limit)
        made = transform(text, None)
        assert {name: values.tolist() for name, values in made.items() if name in given} == {
            name: values[0] for name, values in given.items()
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
    assert "has no tokenizer: none of tokenizer.json, vocab.txt" in refusal(bert)


@pytest.mark.parametrize("content", ["", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]"])
def test_a_tokenizer_that_knows_no_words_is_refused(content: str, bert: Path) -> None:
    write_vocabulary(bert)
    (bert / "vocab.txt").write_text(content)
    assert "knows nothing but special tokens" in refusal(bert)


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}']
)
def test_a_damaged_tokenizer_is_refused(content: str, bert: Path) -> None:
    (bert / "tokenizer.json").write_text(content)
    assert refusal(bert).startswith("The tokenizer in the model channel")


def test_a_tokenizer_that_fails_at_unknown_words_is_refused(bert: Path) -> None:
    tokenizer = json.loads((bert / "tokenizer.json").read_text())
    del tokenizer["model"]["vocab"]["[UNK]"]
    tokenizer["added_tokens"] = []
    (bert / "tokenizer.json").write_text(json.dumps(tokenizer))
    change(bert / "tokenizer_config.json", unk_token=None)
    assert "The tokenizer in the model channel cannot tokenize" in refusal(bert)


@pytest.mark.parametrize("model_type", TEXT_TYPES)
def test_added_tokens_without_embeddings_are_refused_at_the_start(model_type: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / model_type, model_type, labels=("no", "yes"))
    add_token(folder, "newword")
    message = refusal(folder)
    assert "has 16 tokens, but the embeddings of the network have 15 rows" in message
    assert "'newword' has the number 15" in message
    assert "resize_token_embeddings" in message
    assert "has 16 tokens" in refusal(folder, pretrained=False)


def test_more_embeddings_than_tokens_are_fine(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", "bert", labels=("no", "yes"), vocab_size=29)
    add_token(folder, "newword")
    text = [("the newword sat",)]
    assert torch.allclose(probabilities(load(folder), text), reference(folder, text), atol=2e-6)


def test_a_tokenizer_for_few_of_the_embeddings_is_doubted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "bert", "bert", labels=("no", "yes"), vocab_size=100)
    with caplog.at_level(logging.WARNING, "finetune"):
        load(folder)
    assert "has 15 tokens, the network's embeddings have 100 rows: do they belong together?" in caplog.text


def test_a_template_with_numbers_beyond_the_embeddings_is_refused(bert: Path) -> None:
    tokenizer = json.loads((bert / "tokenizer.json").read_text())
    tokenizer["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [101]
    (bert / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "gives the token number 101, but the network's embeddings have 15 rows" in refusal(bert)


def test_token_types_without_embeddings_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bert", "bert", labels=("no", "yes"), type_vocab_size=1)
    transform = transform_of(load(folder))
    transform(("the cat",), None)
    with pytest.raises(UserError, match=r"token types 0 to 1, but the model embeds 1 \(type_vocab_size\)"):
        transform(("the cat", "a dog"), None)


@pytest.mark.parametrize("model_type", ["roberta", "gpt2", "distilbert"])
def test_token_types_of_a_generic_tokenizer_count_as_in_transformers(model_type: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / model_type, model_type, labels=("no", "yes"))
    write_tokenizer(folder, padded=model_type != "gpt2", token_types=True)
    texts = [("the cat", "a dog ran"), ("a mat",)]
    backbone = load(folder)
    assert ("token_type_ids" in transform_of(backbone)(texts[0], None)) == (model_type != "distilbert")
    options = {"return_token_type_ids": False} if model_type == "distilbert" else {}
    assert torch.allclose(probabilities(backbone, texts), reference(folder, texts, **options), atol=2e-6)


def test_the_padding_number_of_roberta_stays_that_of_its_weights(
    roberta: Path, caplog: pytest.LogCaptureFixture
) -> None:
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
def test_a_padding_number_that_roberta_cannot_count_from_is_refused(
    number: int | None, reason: str, roberta: Path
) -> None:
    change(roberta / "config.json", pad_token_id=number)
    assert reason in refusal(roberta)


@pytest.mark.parametrize("number", [None, 2, 0])
def test_other_encoders_keep_the_padding_number_of_their_configuration(number: int | None, bert: Path) -> None:
    change(bert / "config.json", pad_token_id=number)
    backbone = load(bert)
    assert backbone.module.config.pad_token_id == number  # type: ignore[union-attr]  # a module has no config
    assert torch.allclose(probabilities(backbone, TEXTS[:3]), reference(bert, TEXTS[:3]), atol=2e-6)


def test_a_padding_number_beyond_the_embeddings_is_refused(bert: Path) -> None:
    change(bert / "config.json", pad_token_id=15)
    assert "pad_token_id=15, but the embeddings have 15 rows" in refusal(bert)


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
def test_gpt2_pads_with_a_token_that_changes_no_answer(prepare: Callable[[Path], None], gpt2: Path) -> None:
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


def test_replaced_padding_is_told_of(gpt2: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_padding_beyond(gpt2)
    with caplog.at_level(logging.WARNING, "finetune"):
        backbone = load(gpt2)
    assert (
        "pads with '[LATER]' (15), for which the network has no embedding (vocab_size=15): padding with" in caplog.text
    )
    with pytest.raises(BadContent, match=r"contains the token '\[LATER\]' \(15\), but the model embeds 15 tokens"):
        transform_of(backbone)(("the [LATER] cat",), None)


def test_a_text_that_ends_in_borrowed_padding_is_warned_of(gpt2: Path, caplog: pytest.LogCaptureFixture) -> None:
    transform = transform_of(load(gpt2))
    with caplog.at_level(logging.WARNING, "finetune"):
        transform(("the cat",), None)
        assert not caplog.records
        transform(("the cat [SEP]",), None)
        transform(("a dog [SEP]",), None)
    assert caplog.text.count("A text ends in '[SEP]', which also pads") == 1


def test_a_template_that_ends_in_the_end_token_does_not_pad_with_it(gpt2: Path) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(gpt2)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    tokenizer.save_pretrained(gpt2)
    texts = [("the cat sat",), ("a",)]
    assert torch.allclose(probabilities(load(gpt2), texts), reference(gpt2, texts), atol=2e-6)


@pytest.mark.parametrize(
    "fields",
    [{"is_decoder": True}, {"output_hidden_states": True}, {"output_attentions": True}, {"hidden_act": "relu"}],
)
def test_fields_of_the_configuration_count_as_in_transformers(fields: dict[str, object], bert: Path) -> None:
    change(bert / "config.json", **fields)
    assert torch.allclose(probabilities(load(bert), TEXTS[:4]), reference(bert, TEXTS[:4]), atol=2e-6)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "distilbert"])
@pytest.mark.parametrize("fields", [{"return_dict": False}, {"chunk_size_feed_forward": 4}])
def test_fields_that_change_no_number_are_ignored(model_type: str, fields: dict[str, object], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / model_type, model_type, labels=("no", "yes"))
    expected = reference(folder, TEXTS[:4])
    change(folder / "config.json", **fields)
    assert torch.allclose(probabilities(load(folder), TEXTS[:4]), expected, atol=2e-6)


def test_positions_of_deberta_v2_limit_the_length_where_it_has_them(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "deberta-v2", "deberta-v2", labels=("no", "yes"), position_biased_input=True)
    assert input_of(load(folder)).max_length == 32
    assert "max_length=33 is more than" in refusal(folder, max_length=33)


def test_a_text_is_evaluated_at_the_length_that_transformers_takes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "gpt2", "gpt2", labels=("no", "yes"), n_positions=1024)
    assert input_of(load(folder)).max_length == 512
    assert input_of(load(folder, trained=False)).max_length == 1000
    write_tokenizer(folder, padded=False, model_max_length=10**30)
    assert input_of(load(folder, trained=False)).max_length == 1024
    assert input_of(load(folder, trained=False, max_length=9)).max_length == 9


@pytest.mark.parametrize("length", [0, -1, 2])
def test_a_length_without_room_for_a_text_is_refused(length: int, bert: Path) -> None:
    write_tokenizer(bert, padded=True, model_max_length=length)
    assert "leaves no room for a text beside 2 special tokens" in refusal(bert)


def test_a_sentencepiece_model_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "deberta-v2", "deberta-v2", labels=("no", "yes"))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "spm.model").write_bytes(b"\n\x0e\n\x05<unk>")
    assert "Convert its SentencePiece model" in refusal(folder)
