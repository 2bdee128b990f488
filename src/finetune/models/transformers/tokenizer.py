"""Opens the tokenizer of a transformers folder and checks it against the model before any computation."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from finetune.errors import UserError
from finetune.models.transformers.folder import ModelFolder, one_line_message, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Without one of these, transformers builds a tokenizer that has only its special tokens.
_VOCABULARY_FILES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("*.model",))
_PADDING_CANDIDATES = ("eos_token", "unk_token", "sep_token", "cls_token", "bos_token")
# A sequence of characters that is no single token in any vocabulary.
_UNKNOWN_TEXT = "qzx \u4e2d\U0001f9ff\u0e3f"


def load_tokenizer(model_folder: ModelFolder) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a folder, set its padding, and check its token ids against the model's embeddings.

    Its inputs are those of transformers that the model accepts. It pads on the right with a token that the model
    embeds, so that padding changes no output: transformers gives the same outputs for a single text.

    Args:
        model_folder: folder; `pad_token_id` of its configuration is set to the id of the padding token if the model
            reads it.

    Raises:
        UserError: the tokenizer is missing, cannot be used, or belongs to another model.
    """
    location, rows = model_folder.source.location, int(model_folder.config.vocab_size)
    tokenizer = _load(model_folder)
    _check_attributes(tokenizer, location)
    types = model_folder.family.token_types and "token_type_ids" in tokenizer.model_input_names
    _set_attribute(
        tokenizer, "model_input_names", ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    )
    _set_attribute(tokenizer, "padding_side", "right")
    padding = tokenizer.pad_token
    _set_padding(tokenizer, model_folder, rows)
    _check_token_ids(tokenizer, location, rows, padding)
    _check_sample_texts(tokenizer, model_folder, rows)
    return tokenizer


def token_type_count(model_folder: ModelFolder) -> int | None:
    """Return the number of embedded token types; `None` if the model has none."""
    if not model_folder.family.token_types:
        return None
    # GPT-2 embeds token types with its token embeddings.
    count = int(getattr(model_folder.config, "type_vocab_size", model_folder.config.vocab_size))
    return count or None


def _check_attributes(tokenizer: Any, location: str) -> None:  # noqa: ANN401 - untyped in transformers
    """Refuse values in the tokenizer's configuration that transformers stores without validation."""
    names = tokenizer.model_input_names
    fits = {
        "model_max_length": isinstance(tokenizer.model_max_length, int | float)
        and tokenizer.model_max_length < math.inf,
        "model_input_names": isinstance(names, list | tuple) and all(isinstance(name, str) for name in names),
        "pad_token_type_id": isinstance(tokenizer.pad_token_type_id, int),
        "split_special_tokens": isinstance(tokenizer.split_special_tokens, bool),
        "truncation_side": tokenizer.truncation_side in ("left", "right"),
    }
    wrong = [f"{field}={getattr(tokenizer, field)!r}"[:100] for field, fit in fits.items() if not fit]
    if wrong:
        raise UserError(
            f"The tokenizer in the {location} cannot be used: tokenizer_config.json has {', '.join(wrong)}."
        )


def _set_attribute(tokenizer: Any, name: str, value: object) -> None:  # noqa: ANN401 - untyped in transformers
    """Set an attribute and its initial value, since `save_pretrained` writes only the latter."""
    setattr(tokenizer, name, value)
    tokenizer.init_kwargs[name] = value


def _load(model_folder: ModelFolder) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    location, folder = model_folder.source.location, model_folder.folder
    if not any(all(any(folder.glob(name)) for name in files) for files in _VOCABULARY_FILES):
        known = ", ".join(" with ".join(files) for files in _VOCABULARY_FILES)
        raise UserError(
            f"The {location} has no tokenizer: none of {known}. Save the tokenizer of the weights beside them, with"
            " tokenizer.save_pretrained()."
        )
    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            known_tokens = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    # The library's parser raises bare exceptions, and constructors receive unchecked values of any type.
    except Exception as error:
        advice = ""
        if any(folder.glob("*.model")) and not (folder / "tokenizer.json").is_file():
            advice = " Convert its SentencePiece model where that is installed: open it with AutoTokenizer and save it."
        raise UserError(
            f"The tokenizer in the {location} cannot be used: {one_line_message(error)}.{advice}"
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer in the {location} ({type(tokenizer).__name__}) has no fast form: add its tokenizer.json."
        )
    if not known_tokens:
        raise UserError(
            f"The tokenizer in the {location} knows nothing but special tokens"
            f" ({', '.join(tokenizer.all_special_tokens)}): its vocabulary is missing. Save the tokenizer of the"
            " weights beside them."
        )
    return tokenizer


def _set_padding(tokenizer: Any, model_folder: ModelFolder, rows: int) -> None:  # noqa: ANN401 - untyped in transformers
    """Set a padding token that the model embeds and, if it reads `pad_token_id`, treats as padding."""
    config, location = model_folder.config, model_folder.source.location
    given, own = config.pad_token_id, tokenizer.pad_token_id
    counts_positions = model_folder.config.model_type == "roberta"
    if given is not None and (given >= rows or (counts_positions and given < 0)) and model_folder.family.first_token:
        raise UserError(
            f"config.json in the {location} has pad_token_id={given}, but the embeddings have {rows} rows"
            f" (vocab_size={rows}): correct pad_token_id."
        )
    if given is None and counts_positions:
        raise UserError(
            f"config.json in the {location} has no pad_token_id, from which its positions are counted: add it."
        )
    number = own if own is not None and own < rows else None
    if model_folder.family.reads_padding and given is not None and 0 <= given < rows:
        number = given
    if number is None:
        number = _choose_padding_id(tokenizer, location, rows)
    if number != own:
        _replace_padding_token(tokenizer, model_folder, number)
    if model_folder.family.reads_padding:
        config.pad_token_id = number
    if tokenizer.pad_token_type_id >= (token_type_count(model_folder) or 1):
        tokenizer.pad_token_type_id = 0


def _replace_padding_token(tokenizer: Any, model_folder: ModelFolder, number: int) -> None:  # noqa: ANN401 - untyped in transformers
    own, token = tokenizer.pad_token_id, tokenizer.convert_ids_to_tokens(number)
    location, given = model_folder.source.location, model_folder.config.pad_token_id
    # Once declared special, an ordinary token would be matched inside longer words.
    if token not in tokenizer.all_special_tokens:
        raise UserError(
            f"config.json in the {location} has pad_token_id={number}, but the tokenizer pads with"
            f" {tokenizer.pad_token!r} ({own}), and its token {number} is {token!r}: correct pad_token_id, or save the"
            " tokenizer with the padding token that the weights were trained with."
        )
    if own is None:
        logger.info("The tokenizer in the %s has no padding token; it pads with %r (%d).", location, token, number)
    elif number == given:
        logger.warning(
            "config.json in the %s has pad_token_id=%d, but the tokenizer pads with %r (%d): padding with %r (%d),"
            " which the network takes for padding.",
            *(location, number, tokenizer.pad_token, own, token, number),
        )
    else:
        logger.warning(
            "The tokenizer in the %s pads with %r (%d), for which the network has no embedding (vocab_size=%d): padding"
            " with %r (%d), which the attention mask hides.",
            *(location, tokenizer.pad_token, own, model_folder.config.vocab_size, token, number),
        )
    tokenizer.pad_token = token


def _choose_padding_id(tokenizer: Any, location: str, rows: int) -> int:  # noqa: ANN401 - untyped in transformers
    """Return the id of a special token to pad with, preferably not the one that ends every text."""
    ends = _final_token_id(tokenizer)
    numbers: list[int] = [
        tokenizer.convert_tokens_to_ids(token) for name in _PADDING_CANDIDATES if (token := getattr(tokenizer, name))
    ]
    numbers = [number for number in numbers if number is not None and number < rows]
    if not numbers:
        raise UserError(
            f"The tokenizer in the {location} has no special token to pad with that the network embeds: set pad_token"
            " or eos_token to a token of its vocabulary and save it."
        )
    return next((number for number in numbers if number != ends), numbers[0])


def _final_token_id(tokenizer: Any) -> int | None:  # noqa: ANN401 - untyped in transformers
    """Return the id of the token that is appended to every text, if there is one."""
    try:
        bare = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids
        whole = tokenizer.backend_tokenizer.encode("a").ids
    except Exception:  # noqa: BLE001 - it raises no specific type, and _try_out reports the error
        return None
    return whole[-1] if whole and whole[-1:] != bare[-1:] else None


def _check_token_ids(tokenizer: Any, location: str, rows: int, padding: str | None) -> None:  # noqa: ANN401 - untyped
    """Refuse token ids beyond the embeddings, except that of the replaced padding token."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= rows and token != padding)
    if beyond:
        number, token = beyond[0]
        raise UserError(
            f"The tokenizer in the {location} has {max(vocabulary.values()) + 1} tokens, but the embeddings of the"
            f" network have {rows} rows (vocab_size in config.json): {token!r} has the number {number}. Tokenizer and"
            " weights do not belong together, or tokens were added: call model.resize_token_embeddings(len(tokenizer)),"
            " train, and save both together."
        )
    if len(vocabulary) < rows / 2:
        logger.warning(
            "The tokenizer in the %s has %d tokens, the network's embeddings have %d rows: do they belong together?",
            *(location, len(vocabulary), rows),
        )


def _check_sample_texts(tokenizer: Any, model_folder: ModelFolder, rows: int) -> None:  # noqa: ANN401 - untyped in transformers
    """Tokenize sample texts, including unknown characters, since the template around a text has its own token ids."""
    location, backend = model_folder.source.location, tokenizer.backend_tokenizer
    limit = token_type_count(model_folder)
    try:
        single, unknown, pair = (backend.encode(*texts) for texts in (("a",), (_UNKNOWN_TEXT,), ("a", "b")))
    except Exception as error:
        raise UserError(f"The tokenizer in the {location} cannot tokenize: {one_line_message(error)}.") from error
    numbers = [number for encoding in (single, unknown, pair) for number in encoding.ids]
    if max(numbers, default=0) >= rows:
        raise UserError(
            f"The tokenizer in the {location} gives the token number {max(numbers)}, but the network's embeddings have"
            f" {rows} rows (vocab_size in config.json): tokenizer and weights do not belong together."
        )
    if (
        limit is not None
        and "token_type_ids" in tokenizer.model_input_names
        and max(single.type_ids, default=0) >= limit
    ):
        raise UserError(
            f"The tokenizer in the {location} gives the token type {max(single.type_ids)}, but the network embeds"
            f" {limit} (type_vocab_size in config.json): tokenizer and weights do not belong together."
        )
