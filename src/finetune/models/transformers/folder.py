"""Locates or downloads a transformers folder and checks that its model is supported; runs no code from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config.hyperparameters import TaskName
from finetune.errors import UserError
from finetune.models.request import ModelRequest
from finetune.models.transformers.families import TransformersFamily, UnsupportedModelError, describe_family
from finetune.models.transformers.folder_weights import refuse_lfs_pointers
from finetune.models.transformers.pooled import PooledClassifierBuilder
from finetune.models.transformers.sentence_folder import SentencePooling, read_sentence_pooling
from finetune.models.weights.locate import missing_weights_error
from finetune.models.weights.sources import CONFIG_FILE, Source, read_json
from finetune.models.weights.unsupported_formats import refuse_adapter, timm_folder_error

_TEXT_FILES = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("model.safetensors", "model-*.safetensors", "*_Dense/*")
_PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model-*.bin")
# Limits on a configuration, checked before anything of that size is allocated; existing models are far below.
MAX_CLASSES = 100_000
MAX_LAYERS = 1_000
_LAYER_COUNT_FIELDS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "depths")
_ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa")
# Errors that transformers raises for invalid configuration values.
CONFIG_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and load reports of transformers and the hub, and restore their settings on exit."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A transformers folder with a supported configuration.

    Attributes:
        source: origin of the model.
        folder: local path with configuration, weights, and tokenizer or image processor.
        model_class: transformers class of the classifier.
        family: structure of the model.
        config: transformers' configuration object; its fields differ by architecture.
        pooling: what follows the encoder, if the folder is one of sentence-transformers.
    """

    source: Source
    folder: Path
    model_class: Any
    family: TransformersFamily
    config: Any
    pooling: SentencePooling | None = None


def open_model_folder(request: ModelRequest, source: Source) -> ModelFolder:
    """Open the folder of `source` without running any code from it.

    Raises:
        UserError: the folder cannot be downloaded, or its model needs custom code, is unsupported, or is for another
            task.
    """
    folder = _local_folder(request, source)
    refuse_lfs_pointers(folder, source.location, _TEXT_FILES)
    refuse_adapter(folder, source.location)
    _check_config_file(folder, source, request)
    config = _load_config(folder, source)
    pooling = _read_pooling(folder, config, source, request)
    if pooling is not None:
        from transformers import MODEL_MAPPING

        encoders: Any = MODEL_MAPPING
        builder = PooledClassifierBuilder(encoders[type(config)], pooling)
        family = _describe_family(config, builder, source, request.task)
        return ModelFolder(source, folder, builder, replace(family, pooled=True), config, pooling)
    model_class = _class_mapping(request.task)[type(config)]
    if isinstance(model_class, tuple):
        # The others have a second classifier, trained by distillation.
        model_class = model_class[0]
    return ModelFolder(source, folder, model_class, _describe_family(config, model_class, source, request.task), config)


def _read_pooling(folder: Path, config: Any, source: Source, request: ModelRequest) -> SentencePooling | None:  # noqa: ANN401 - untyped in transformers
    """Read the pooling of a sentence-transformers folder; None if its configuration is that of a classifier."""
    is_classifier = any("ForSequenceClassification" in str(name) for name in config.architectures or ())
    if request.task != "text-classification" or is_classifier:
        return None
    return read_sentence_pooling(folder, source.location)


def _class_mapping(task: TaskName) -> Any:  # noqa: ANN401 - untyped in transformers
    """Return transformers' classifier classes for a task, by the class of the configuration."""
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as IMAGES
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as TEXTS

    return IMAGES if task == "image-classification" else TEXTS


def _supported_tasks(model_type: object) -> list[TaskName]:
    """Return the tasks for which transformers has a classifier of that type, without importing the classifier."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    tasks: list[TaskName] = []
    if model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        tasks.append("text-classification")
    if model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        tasks.append("image-classification")
    return tasks


def _describe_family(config: Any, model_class: Any, source: Source, task: TaskName) -> TransformersFamily:  # noqa: ANN401 - untyped in transformers
    try:
        with quiet():
            return describe_family(config, model_class, task)
    except UnsupportedModelError as error:
        raise UserError(
            f"The model in the {source.location} has model_type={config.model_type!r}, which is not supported: {error}."
        ) from error
    except CONFIG_ERRORS as error:
        raise unusable_config_error(source, describe_error(error)) from error


def _local_folder(request: ModelRequest, source: Source) -> Path:
    """Return the local folder of `source`, after downloading it if it is on the hub."""
    if source.path is not None:
        return source.path
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name = source.name or ""
    try:
        with quiet():
            folder = Path(
                snapshot_download(name, allow_patterns=[*_TEXT_FILES, *(_WEIGHTS if request.pretrained else ())])
            )
            if request.pretrained and not any(folder.glob("model*.safetensors")):
                snapshot_download(name, allow_patterns=[*_PICKLED_WEIGHTS])
    except (OSError, HfHubHTTPError, HFValidationError, HTTPError) as error:
        raise missing_weights_error(request, name, one_line_message(error)) from error
    return folder


def _check_config_file(folder: Path, source: Source, request: ModelRequest) -> None:
    """Check the configuration before transformers parses it."""
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"The {source.location} has no {CONFIG_FILE}: provide a folder written by save_pretrained().")
    config = read_json(folder / CONFIG_FILE, source.location)
    model_type = config.get("model_type")
    tasks = _supported_tasks(model_type) if isinstance(model_type, str) else []
    if not tasks:
        timm = timm_folder_error(config, source.location)
        if timm is not None:
            raise timm
        custom_code = " requires custom code, which is never run, and" if "auto_map" in config else ""
        raise UserError(
            f"The model in the {source.location}{custom_code} has model_type={model_type!r}, which is not supported:"
            " use an architecture for which transformers has a classifier of texts or images, such as bert, roberta,"
            " modernbert, vit or dinov2."
        )
    if request.task not in tasks:
        raise UserError(
            f"The {source.location} contains a model for {tasks[0]} ({model_type}), but the task is {request.task}:"
            " choose another model, or check the data and `task`."
        )
    reason = _config_fault(config)
    if reason is not None:
        raise unusable_config_error(source, reason)


def unsupported_structure_error(model_folder: ModelFolder) -> UserError:
    """Create the error for a model that cannot be divided into an encoder and a head."""
    return UserError(
        f"The model in the {model_folder.source.location} (model_type={model_folder.config.model_type!r}) is not"
        " supported: its encoder and its head do not compute the same separately as together. Choose another"
        " architecture, such as bert, roberta, modernbert, vit or dinov2."
    )


def unusable_config_error(source: Source, reason: str) -> UserError:
    """Create the error for a configuration from which no model can be built."""
    return UserError(f"{CONFIG_FILE} in the {source.location} cannot be used: {reason}.")


def _config_fault(config: Mapping[str, object]) -> str | None:
    """Return the reason why a configuration is not supported, or None if it is."""
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else quantized
        return (
            f"quantization_config (quant_method={str(method)[:60]!r}) describes quantized weights, which are not"
            " supported; provide the folder of the original model, or dequantize it and save it again"
        )
    for field in ("attn_implementation", "_attn_implementation"):
        if config.get(field) not in (None, *_ATTENTION_IMPLEMENTATIONS):
            return (
                f"{field}={str(config[field])[:60]!r} is not available; remove the field, or set it to"
                f" {' or '.join(_ATTENTION_IMPLEMENTATIONS)}"
            )
    id2label, num_labels = config.get("id2label"), config.get("num_labels")
    if num_labels is not None and (not isinstance(num_labels, int) or not 0 < num_labels <= MAX_CLASSES):
        return f"num_labels={str(num_labels)[:60]} is not allowed; choose a number from 1 to {MAX_CLASSES}"
    if isinstance(id2label, Mapping) and len(id2label) != (len(id2label) if num_labels is None else num_labels):
        return f"num_labels={num_labels}, but id2label has {len(id2label)} classes; correct one of them"
    return _size_fault(config)


def _size_fault(config: Mapping[str, object]) -> str | None:
    """Return the reason why a size in a configuration is not allowed, or None if all are."""
    vocab_size = config.get("vocab_size")
    if isinstance(vocab_size, int) and vocab_size < 1:
        return f"vocab_size={vocab_size} is not allowed; it must be the number of rows of the embeddings"
    for field in _LAYER_COUNT_FIELDS:
        value = config.get(field)
        counts = value if isinstance(value, list) else [value]
        if sum(part for part in counts if isinstance(part, int | float)) > MAX_LAYERS:
            return f"{field}={str(value)[:60]} is more than the {MAX_LAYERS} layers allowed"
    return None


def _load_config(folder: Path, source: Source) -> Any:  # noqa: ANN401 - its fields differ by architecture
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (*CONFIG_ERRORS, StrictDataclassError) as error:
        raise unusable_config_error(source, describe_error(error)) from error
    # None of these changes the logits, only the additional outputs or the order of computation.
    config.return_dict = True
    config.output_attentions = config.output_hidden_states = False
    config.chunk_size_feed_forward = 0
    return config


def describe_error(error: Exception) -> str:
    """Return the message of a library's error, with its type if the message alone is not informative."""
    return (
        f"{type(error).__name__}: {one_line_message(error)}"
        if isinstance(error, LookupError)
        else one_line_message(error)
    )


def one_line_message(error: Exception) -> str:
    """Return an error's message on one line, truncated to 300 characters."""
    return " ".join(str(error).split())[:300]
