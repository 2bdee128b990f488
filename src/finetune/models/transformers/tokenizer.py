"""Opens the tokenizer of a transformers folder and checks it against the model before any computation."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """A tokenizer, and the padding token that was set because it has none."""

    tokenizer: PreTrainedTokenizerBase
    added_padding: str | None


def load_tokenizer(model_folder: ModelFolder) -> LoadedTokenizer:
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
    return LoadedTokenizer(tokenizer, None if padding else str(tokenizer.pad_token))


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
    validity = {
        "model_max_length": isinstance(tokenizer.model_max_length, int | float)
        and tokenizer.model_max_length < math.inf,
        "model_input_names": isinstance(names, list | tuple) and all(isinstance(name, str) for name in names),
        "pad_token_type_id": isinstance(tokenizer.pad_token_type_id, int),
        "split_special_tokens": isinstance(tokenizer.split_special_tokens, bool),
        "truncation_side": tokenizer.truncation_side in ("left", "right"),
    }
    invalid_fields = [
        f"{field}={getattr(tokenizer, field)!r}"[:100] for field, is_valid in validity.items() if not is_valid
    ]
    if invalid_fields:
        raise UserError(
            f"The tokenizer in the {location} cannot be used: tokenizer_config.json has {', '.join(invalid_fields)}."
        )


def _set_attribute(tokenizer: Any, name: str, value: object) -> None:  # noqa: ANN401 - untyped in transformers
    """Set an attribute and its initial value, since `save_pretrained` writes only the latter."""
    setattr(tokenizer, name, value)
    tokenizer.init_kwargs[name] = value


def _load(model_folder: ModelFolder) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    location, folder = model_folder.source.location, model_folder.folder
    if not any(all(any(folder.glob(name)) for name in files) for files in _VOCABULARY_FILES):
        expected_files = ", ".join(" with ".join(files) for files in _VOCABULARY_FILES)
        raise UserError(
            f"The {location} has no tokenizer: none of {expected_files}. Add the tokenizer of the model,"
            " saved with tokenizer.save_pretrained()."
        )
    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            ordinary_tokens = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    # The library's parser raises bare exceptions, and constructors receive unchecked values of any type.
    except Exception as error:
        advice = ""
        if any(folder.glob("*.model")) and not (folder / "tokenizer.json").is_file():
            advice = " Convert it where sentencepiece is installed: load it with AutoTokenizer and save it."
        raise UserError(
            f"The tokenizer in the {location} cannot be used: {one_line_message(error)}.{advice}"
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer in the {location} ({type(tokenizer).__name__}) has no fast version: add its tokenizer.json."
        )
    if not ordinary_tokens:
        raise UserError(
            f"The tokenizer in the {location} contains only special tokens"
            f" ({', '.join(tokenizer.all_special_tokens)}): its vocabulary is missing. Save the tokenizer of the"
            " weights next to them."
        )
    return tokenizer


def _set_padding(tokenizer: Any, model_folder: ModelFolder, rows: int) -> None:  # noqa: ANN401 - untyped in transformers
    """Set a padding token that the model embeds and, if it reads `pad_token_id`, treats as padding."""
    config, location = model_folder.config, model_folder.source.location
    config_id, tokenizer_id = config.pad_token_id, tokenizer.pad_token_id
    counts_positions = model_folder.family.counts_positions
    if (
        config_id is not None
        and (config_id >= rows or (counts_positions and config_id < 0))
        and not model_folder.family.last_token
    ):
        raise UserError(
            f"config.json in the {location} has pad_token_id={config_id}, but the embeddings have {rows} rows"
            f" (vocab_size={rows}): correct pad_token_id."
        )
    if config_id is None and counts_positions:
        raise UserError(
            f"config.json in the {location} has no pad_token_id, from which its positions are counted: add it."
        )
    token_id = tokenizer_id if tokenizer_id is not None and tokenizer_id < rows else None
    if model_folder.family.reads_padding and config_id is not None and 0 <= config_id < rows:
        token_id = config_id
    if token_id is None:
        token_id = _choose_padding_id(tokenizer, location, rows)
    if token_id != tokenizer_id:
        _replace_padding_token(tokenizer, model_folder, token_id)
    if model_folder.family.reads_padding:
        config.pad_token_id = token_id
    if tokenizer.pad_token_type_id >= (token_type_count(model_folder) or 1):
        tokenizer.pad_token_type_id = 0


def _replace_padding_token(tokenizer: Any, model_folder: ModelFolder, token_id: int) -> None:  # noqa: ANN401 - untyped in transformers
    tokenizer_id, token = tokenizer.pad_token_id, tokenizer.convert_ids_to_tokens(token_id)
    location, config_id = model_folder.source.location, model_folder.config.pad_token_id
    # Once declared special, an ordinary token would be matched inside longer words.
    if token not in tokenizer.all_special_tokens:
        raise UserError(
            f"config.json in the {location} has pad_token_id={token_id}, but the tokenizer pads with"
            f" {tokenizer.pad_token!r} ({tokenizer_id}), and its token {token_id} is {token!r}: correct pad_token_id,"
            " or save the tokenizer with the padding token that the weights were trained with."
        )
    if tokenizer_id is None:
        logger.info("The tokenizer in the %s has no padding token; it pads with %r (%d).", location, token, token_id)
    elif token_id == config_id:
        logger.warning(
            "config.json in the %s has pad_token_id=%d, but the tokenizer pads with %r (%d): padding with %r (%d),"
            " which the model treats as padding.",
            *(location, token_id, tokenizer.pad_token, tokenizer_id, token, token_id),
        )
    else:
        logger.warning(
            "The tokenizer in the %s pads with %r (%d), for which the model has no embedding (vocab_size=%d): padding"
            " with %r (%d), which is masked.",
            *(location, tokenizer.pad_token, tokenizer_id, model_folder.config.vocab_size, token, token_id),
        )
    tokenizer.pad_token = token


def _choose_padding_id(tokenizer: Any, location: str, rows: int) -> int:  # noqa: ANN401 - untyped in transformers
    """Return the id of a special token to pad with, preferably not the one that ends every text."""
    final_id = _final_token_id(tokenizer)
    token_ids: list[int] = [
        tokenizer.convert_tokens_to_ids(token) for name in _PADDING_CANDIDATES if (token := getattr(tokenizer, name))
    ]
    token_ids = [token_id for token_id in token_ids if token_id is not None and token_id < rows]
    if not token_ids:
        raise UserError(
            f"The tokenizer in the {location} has no special token with an embedding in the model to pad with: set"
            " pad_token or eos_token to a token of its vocabulary and save it."
        )
    return next((token_id for token_id in token_ids if token_id != final_id), token_ids[0])


def _final_token_id(tokenizer: Any) -> int | None:  # noqa: ANN401 - untyped in transformers
    """Return the id of the token that is appended to every text, if there is one."""
    try:
        ids = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids
        ids_with_template = tokenizer.backend_tokenizer.encode("a").ids
    except Exception:  # noqa: BLE001 - it raises no specific type, and _try_out reports the error
        return None
    return ids_with_template[-1] if ids_with_template and ids_with_template[-1:] != ids[-1:] else None


def _check_token_ids(tokenizer: Any, location: str, rows: int, padding: str | None) -> None:  # noqa: ANN401 - untyped
    """Refuse token ids beyond the embeddings, except that of the replaced padding token."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    unembedded = sorted(
        (token_id, token) for token, token_id in vocabulary.items() if token_id >= rows and token != padding
    )
    if unembedded:
        token_id, token = unembedded[0]
        raise UserError(
            f"The tokenizer in the {location} has {max(vocabulary.values()) + 1} tokens, but the embeddings of the"
            f" model have {rows} rows (vocab_size in config.json): {token!r} has the id {token_id}. Tokenizer and"
            " weights do not match, or tokens were added: call model.resize_token_embeddings(len(tokenizer)),"
            " train, and save both together."
        )
    if len(vocabulary) < rows / 2:
        logger.warning(
            "The tokenizer in the %s has %d tokens, but the model's embeddings have %d rows: check that they match.",
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
    token_ids = [token_id for encoding in (single, unknown, pair) for token_id in encoding.ids]
    if max(token_ids, default=0) >= rows:
        raise UserError(
            f"The tokenizer in the {location} produces the token id {max(token_ids)}, but the model's embeddings"
            f" have {rows} rows (vocab_size in config.json): tokenizer and weights do not match."
        )
    if (
        limit is not None
        and "token_type_ids" in tokenizer.model_input_names
        and max(single.type_ids, default=0) >= limit
    ):
        raise UserError(
            f"The tokenizer in the {location} produces the token type {max(single.type_ids)}, but the model embeds"
            f" {limit} (type_vocab_size in config.json): tokenizer and weights do not match."
        )
