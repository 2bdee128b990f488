"""Where a transformers network lies on this disk, and whether it may be opened: no code of its own, no chatter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.models.request import ModelRequest
from finetune.models.sources import CONFIG_FILE, Source, read_json
from finetune.models.transformers_families import FAMILIES, TransformersFamily
from finetune.models.weights import no_weights

_SMALL_FILES = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("model.safetensors", "model-*.safetensors")
_OLD_WEIGHTS = ("pytorch_model.bin", "pytorch_model-*.bin")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and the hub from writing progress bars and load reports, then leave them as they were."""
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
class OpenedFolder:
    """A folder whose network may be opened.

    Attributes:
        source: where it comes from.
        folder: configuration, weights, and tokenizer or picture processor.
        family: of the network.
        config: transformers' configuration, as the folder has it; its fields differ by family.
    """

    source: Source
    folder: Path
    family: TransformersFamily
    config: Any


def open_folder(request: ModelRequest, source: Source) -> OpenedFolder:
    """Open the folder of `source`; nothing in it is run.

    Raises:
        UserError: it cannot be had, its network would need code of its own, is unknown, or is not for the task.
    """
    folder = _local_folder(request, source)
    family = _family(folder, source, request)
    return OpenedFolder(source, folder, family, _config(folder, source))


def _local_folder(request: ModelRequest, source: Source) -> Path:
    """The folder of `source`, downloaded first where it lies on the hub."""
    if source.path is not None:
        return source.path
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name = source.name or ""
    try:
        with quiet():
            folder = Path(
                snapshot_download(name, allow_patterns=[*_SMALL_FILES, *(_WEIGHTS if request.pretrained else ())])
            )
            if request.pretrained and not any(folder.glob("model*.safetensors")):
                snapshot_download(name, allow_patterns=[*_OLD_WEIGHTS])
    except (OSError, HfHubHTTPError, HFValidationError, HTTPError) as error:
        raise no_weights(request, name, first_line(error)) from error
    return folder


def _family(folder: Path, source: Source, request: ModelRequest) -> TransformersFamily:
    """The family of the network in `folder`, read from its configuration before any code of transformers sees it."""
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"The {source.place} has no {CONFIG_FILE}: give a folder as save_pretrained() writes it.")
    config = read_json(folder / CONFIG_FILE, source.place)
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        code = " brings code of its own, which is never run, and" if "auto_map" in config else ""
        raise UserError(
            f"The network in the {source.place}{code} has model_type={model_type!r}, which is not supported:"
            f" use one of {', '.join(FAMILIES)}."
        )
    if family.task != request.task:
        raise UserError(
            f"The {source.place} holds a network for {family.task} ({model_type}), but the task is {request.task}:"
            " choose another network, or check the data and `task`."
        )
    return family


def _config(folder: Path, source: Source) -> Any:  # noqa: ANN401 - its fields differ by family
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise UserError(f"{CONFIG_FILE} in the {source.place} cannot be used: {first_line(error)}.") from error
    return config


def first_line(error: Exception) -> str:
    """What an error says, on one line and short enough to quote."""
    return " ".join(str(error).split())[:300]
