"""Opens the tokenizer of a transformers folder and checks it against the model before any computation."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from finetune.errors import UserError
from finetune.models.transformers.folder import OpenedFolder, first_line, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Without one of these, transformers builds a tokenizer that has only its special tokens.
_VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("*.model",))
_BEFORE_PADDING = ("eos_token", "unk_token", "sep_token", "cls_token", "bos_token")
# A sequence of characters that is no single token in any vocabulary.
_UNKNOWN = "qzx \u4e2d\U0001f9ff\u0e3f"


def open_tokenizer(opened: OpenedFolder) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a folder, set its padding, and check its token ids against the model's embeddings.

    Its inputs are those of transformers that the model accepts. It pads on the right with a token that the model
    embeds, so that padding changes no output: transformers gives the same outputs for a single text.

    Args:
        opened: folder; `pad_token_id` of its configuration is set to the id of the padding token if the model reads
            it.

    Raises:
        UserError: the tokenizer is missing, cannot be used, or belongs to another model.
    """
    place, rows = opened.source.place, int(opened.config.vocab_size)
    tokenizer = _load(opened)
    _check_attributes(tokenizer, place)
    types = opened.family.token_types and "token_type_ids" in tokenizer.model_input_names
    _set_and_save(
        tokenizer, "model_input_names", ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    )
    _set_and_save(tokenizer, "padding_side", "right")
    padding = tokenizer.pad_token
    _settle_padding(tokenizer, opened, rows)
    _check_tokens(tokenizer, place, rows, padding)
    _try_out(tokenizer, opened, rows)
    return tokenizer


def token_types(opened: OpenedFolder) -> int | None:
    """Return the number of embedded token types; `None` if the model has none."""
    if not opened.family.token_types:
        return None
    # GPT-2 embeds token types with its token embeddings.
    count = int(getattr(opened.config, "type_vocab_size", opened.config.vocab_size))
    return count or None


def _check_attributes(tokenizer: Any, place: str) -> None:  # noqa: ANN401 - untyped in transformers
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
        raise UserError(f"The tokenizer in the {place} cannot be used: tokenizer_config.json has {', '.join(wrong)}.")


def _set_and_save(tokenizer: Any, name: str, value: object) -> None:  # noqa: ANN401 - untyped in transformers
    """Set an attribute and its initial value, since `save_pretrained` writes only the latter."""
    setattr(tokenizer, name, value)
    tokenizer.init_kwargs[name] = value


def _load(opened: OpenedFolder) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    place, folder = opened.source.place, opened.folder
    if not any(all(any(folder.glob(name)) for name in files) for files in _VOCABULARIES):
        known = ", ".join(" with ".join(files) for files in _VOCABULARIES)
        raise UserError(
            f"The {place} has no tokenizer: none of {known}. Save the tokenizer of the weights beside them, with"
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
        raise UserError(f"The tokenizer in the {place} cannot be used: {first_line(error)}.{advice}") from error
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer in the {place} ({type(tokenizer).__name__}) has no fast form: add its tokenizer.json."
        )
    if not known_tokens:
        raise UserError(
            f"The tokenizer in the {place} knows nothing but special tokens"
            f" ({', '.join(tokenizer.all_special_tokens)}): its vocabulary is missing. Save the tokenizer of the"
            " weights beside them."
        )
    return tokenizer


def _settle_padding(tokenizer: Any, opened: OpenedFolder, rows: int) -> None:  # noqa: ANN401 - untyped in transformers
    """Set a padding token that the model embeds and, if it reads `pad_token_id`, treats as padding."""
    config, place = opened.config, opened.source.place
    given, own = config.pad_token_id, tokenizer.pad_token_id
    counts_positions = opened.config.model_type == "roberta"
    if given is not None and (given >= rows or (counts_positions and given < 0)) and opened.family.first_token:
        raise UserError(
            f"config.json in the {place} has pad_token_id={given}, but the embeddings have {rows} rows"
            f" (vocab_size={rows}): correct pad_token_id."
        )
    if given is None and counts_positions:
        raise UserError(
            f"config.json in the {place} has no pad_token_id, from which its positions are counted: add it."
        )
    number = own if own is not None and own < rows else None
    if opened.family.reads_padding and given is not None and 0 <= given < rows:
        number = given
    if number is None:
        number = _other_padding(tokenizer, place, rows)
    if number != own:
        _change_padding(tokenizer, opened, number)
    if opened.family.reads_padding:
        config.pad_token_id = number
    if tokenizer.pad_token_type_id >= (token_types(opened) or 1):
        tokenizer.pad_token_type_id = 0


def _change_padding(tokenizer: Any, opened: OpenedFolder, number: int) -> None:  # noqa: ANN401 - untyped in transformers
    own, token = tokenizer.pad_token_id, tokenizer.convert_ids_to_tokens(number)
    place, given = opened.source.place, opened.config.pad_token_id
    # Once declared special, an ordinary token would be matched inside longer words.
    if token not in tokenizer.all_special_tokens:
        raise UserError(
            f"config.json in the {place} has pad_token_id={number}, but the tokenizer pads with {tokenizer.pad_token!r}"
            f" ({own}), and its token {number} is {token!r}: correct pad_token_id, or save the tokenizer with the"
            " padding token that the weights were trained with."
        )
    if own is None:
        logger.info("The tokenizer in the %s has no padding token; it pads with %r (%d).", place, token, number)
    elif number == given:
        logger.warning(
            "config.json in the %s has pad_token_id=%d, but the tokenizer pads with %r (%d): padding with %r (%d),"
            " which the network takes for padding.",
            *(place, number, tokenizer.pad_token, own, token, number),
        )
    else:
        logger.warning(
            "The tokenizer in the %s pads with %r (%d), for which the network has no embedding (vocab_size=%d): padding"
            " with %r (%d), which the attention mask hides.",
            *(place, tokenizer.pad_token, own, opened.config.vocab_size, token, number),
        )
    tokenizer.pad_token = token


def _other_padding(tokenizer: Any, place: str, rows: int) -> int:  # noqa: ANN401 - untyped in transformers
    """Return the id of a special token to pad with, preferably not the one that ends every text."""
    ends = _end_of_template(tokenizer)
    numbers: list[int] = [
        tokenizer.convert_tokens_to_ids(token) for name in _BEFORE_PADDING if (token := getattr(tokenizer, name))
    ]
    numbers = [number for number in numbers if number is not None and number < rows]
    if not numbers:
        raise UserError(
            f"The tokenizer in the {place} has no special token to pad with that the network embeds: set pad_token or"
            " eos_token to a token of its vocabulary and save it."
        )
    return next((number for number in numbers if number != ends), numbers[0])


def _end_of_template(tokenizer: Any) -> int | None:  # noqa: ANN401 - untyped in transformers
    """Return the id of the token that is appended to every text, if there is one."""
    try:
        bare = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids
        whole = tokenizer.backend_tokenizer.encode("a").ids
    except Exception:  # noqa: BLE001 - it raises no specific type, and _try_out reports the error
        return None
    return whole[-1] if whole and whole[-1:] != bare[-1:] else None


def _check_tokens(tokenizer: Any, place: str, rows: int, padding: str | None) -> None:  # noqa: ANN401 - untyped
    """Refuse token ids beyond the embeddings, except that of the replaced padding token."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= rows and token != padding)
    if beyond:
        number, token = beyond[0]
        raise UserError(
            f"The tokenizer in the {place} has {max(vocabulary.values()) + 1} tokens, but the embeddings of the network"
            f" have {rows} rows (vocab_size in config.json): {token!r} has the number {number}. Tokenizer and weights"
            " do not belong together, or tokens were added: call model.resize_token_embeddings(len(tokenizer)), train,"
            " and save both together."
        )
    if len(vocabulary) < rows / 2:
        logger.warning(
            "The tokenizer in the %s has %d tokens, the network's embeddings have %d rows: do they belong together?",
            *(place, len(vocabulary), rows),
        )


def _try_out(tokenizer: Any, opened: OpenedFolder, rows: int) -> None:  # noqa: ANN401 - untyped in transformers
    """Tokenize sample texts, including unknown characters, since the template around a text has its own token ids."""
    place, backend = opened.source.place, tokenizer.backend_tokenizer
    limit = token_types(opened)
    try:
        single, unknown, pair = (backend.encode(*texts) for texts in (("a",), (_UNKNOWN,), ("a", "b")))
    except Exception as error:
        raise UserError(f"The tokenizer in the {place} cannot tokenize: {first_line(error)}.") from error
    numbers = [number for encoding in (single, unknown, pair) for number in encoding.ids]
    if max(numbers, default=0) >= rows:
        raise UserError(
            f"The tokenizer in the {place} gives the token number {max(numbers)}, but the network's embeddings have"
            f" {rows} rows (vocab_size in config.json): tokenizer and weights do not belong together."
        )
    if (
        limit is not None
        and "token_type_ids" in tokenizer.model_input_names
        and max(single.type_ids, default=0) >= limit
    ):
        raise UserError(
            f"The tokenizer in the {place} gives the token type {max(single.type_ids)}, but the network embeds {limit}"
            " (type_vocab_size in config.json): tokenizer and weights do not belong together."
        )
