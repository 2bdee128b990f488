"""Detects unsupported model formats, adapters and incomplete folders, and describes each with its remedy."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from finetune.errors import UserError

ADAPTER_FILE = "adapter_config.json"
SHARD = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|bin)")
INDEX_SUFFIX = ".index.json"
_TOKENIZER_AND_PROCESSOR = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
# Names of the first layers in transformers.
_TRANSFORMERS_STEMS = frozenset({"embeddings", "embed_tokens", "embedder", "word_embeddings", "wte"})
_ADAPTER_TENSOR = re.compile(r"(^|\.)(lora_[AB]|lora_embedding_[AB]|base_model\.model)\.")
# Formats of other frameworks: file name pattern and name of the format.
_FORMATS = (
    ("tf_model*.h5", "TensorFlow weights"),
    ("*.h5", "Keras or TensorFlow weights"),
    ("*.keras", "a Keras model"),
    ("saved_model.pb", "a TensorFlow SavedModel"),
    ("*.ckpt.index", "a TensorFlow checkpoint"),
    ("*.msgpack", "Flax weights"),
    ("rust_model.ot", "weights for Rust"),
    ("*.onnx", "an ONNX graph"),
    ("*.gguf", "a GGUF file for llama.cpp"),
    ("*.mlmodel", "a Core ML model"),
    ("*.tflite", "a TensorFlow Lite model"),
    ("openvino_model.*", "an OpenVINO model"),
    ("model_index.json", "a pipeline of diffusers"),
    ("*.joblib", "a pickled object"),
    ("*.pkl", "a pickled object"),
)


def refuse_adapter(folder: Path, location: str) -> None:
    """Refuse a folder with an adapter, even if it also contains the weights of its base model.

    Raises:
        UserError: adapters are not supported.
    """
    if (folder / ADAPTER_FILE).is_file():
        raise _adapter_error(f"{ADAPTER_FILE} in the {location}")


def refuse_foreign_tensors(names: Collection[str], file: Path, location: str) -> None:
    """Refuse a state dict, expected to be torchvision's, with tensors of an adapter or of a transformers model.

    Raises:
        UserError: names the remedy.
    """
    if any(_ADAPTER_TENSOR.search(name) for name in names):
        raise _adapter_error(f"{file.name} in the {location}")
    stem = _find_transformers_stem(names)
    if stem is not None:
        raise _missing_config_error(file.name, location, f", whose tensors are those of a transformers model ({stem})")


def refuse_incomplete_folder(folder: Path, weights: Iterable[Path], location: str) -> None:
    """Refuse weights of a transformers folder without its config.json, detected by file names.

    Raises:
        UserError: the folder is an incomplete transformers folder.
    """
    shard = next((path.name for path in weights if SHARD.fullmatch(path.name)), None)
    index = next((path.name for path in sorted(folder.glob(f"*{INDEX_SUFFIX}"))), None)
    weight = shard or next((path.name for path in weights), None)
    companion = next((name for name in _TOKENIZER_AND_PROCESSOR if (folder / name).is_file()), None)
    if weight is not None and (shard or index or companion):
        raise _missing_config_error(
            weight, location, f", which also has {index or companion}" if index or companion else ""
        )


def describe_other_format(folder: Path) -> str | None:
    """Describe the first file of another framework in `folder`, with the remedy; None if there is none."""
    for pattern, format_name in _FORMATS:
        path = next((path for path in sorted(folder.glob(pattern)) if path.is_file()), None)
        if path is not None:
            remedy = (
                "load it with transformers 4 (from_tf=True or from_flax=True) and save_pretrained()"
                if format_name in {"TensorFlow weights", "Flax weights"}
                else "provide the PyTorch weights"
            )
            return f"{path.name} contains {format_name}, which cannot be read: {remedy}"
    return None


def timm_folder_error(config: Mapping[str, object], location: str) -> UserError | None:
    """Return the error for a timm folder of another owner than timm on the hub; None for other folders."""
    architecture = config.get("architecture")
    if "model_type" in config or not isinstance(architecture, str):
        return None
    return UserError(
        f"config.json in the {location} is timm's (architecture {architecture[:60]!r}): provide its folder as model"
        f" channel, or set model_name=timm/{architecture[:60]} for the weights of timm's authors."
    )


def _adapter_error(where: str) -> UserError:
    return UserError(
        f"{where} is an adapter (PEFT, LoRA), which is not supported: merge it into its base model, with"
        " model.merge_and_unload().save_pretrained(folder), and provide that folder without the adapter's files."
    )


def _missing_config_error(weights: str, location: str, evidence: str) -> UserError:
    return UserError(
        f"config.json is missing for {weights} in the {location}{evidence}: provide the whole folder written by"
        " save_pretrained(), with config.json and the tokenizer or the preprocessor_config.json."
    )


def _find_transformers_stem(names: Collection[str]) -> str | None:
    """Return the path of a transformers model's first layers in `names`; those of other libraries have none."""
    for name in names:
        parts = name.split(".")
        index = next((index for index, part in enumerate(parts) if part in _TRANSFORMERS_STEMS), None)
        if index is not None:
            return ".".join(parts[: index + 1])
    return None
