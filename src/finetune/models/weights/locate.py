"""Locates the weights of a model: in the model channel, then in the container image, then on the hub."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import UserError
from finetune.models.request import ModelRequest
from finetune.models.weights.archive import ARCHIVE_SUFFIXES, is_archive, unpack
from finetune.models.weights.containment import refuse_external_links
from finetune.models.weights.sources import CONFIG_FILE, STATE_DICT_SUFFIXES, Source, identify_source
from finetune.models.weights.unsupported_formats import describe_other_format

_JOB_ARTIFACT = "model.tar.gz"
_MAX_NAME_BYTES = 255
_MAX_PATH_LENGTH = 4095
IMAGE_WEIGHTS = "weights in the image"
DEFAULT_MODELS = {"image-classification": "resnet50", "text-classification": "distilbert-base-uncased"}


def locate_source(request: ModelRequest) -> Source:
    """Return the first source of the model: model channel, folder named by the user, container image, hub.

    Raises:
        UserError: the model channel contains no known model, or an unsafe archive.
        PlatformError: there is not enough disk space for the contents of the archive.
    """
    if request.model_channel is not None:
        return _in_channel(request.model_channel, request.scratch)
    name = request.spec.name or DEFAULT_MODELS[request.task]
    _check_model_name(name)
    if name.startswith(("/", "./")):
        return _in_folder(Path(name))
    baked = None if request.baked_weights is None else _in_image(request.baked_weights, name)
    return baked or Source("hub", "hub", name=name)


def missing_weights_error(request: ModelRequest, name: str, cause: str) -> UserError:
    """Create the error for a model that is not found, with the three ways to provide it."""
    missing, alternative = "There are no local weights", " To train from random weights, set strategy=from_scratch."
    if not request.pretrained:
        missing, alternative = "There is no local configuration", ""
    return UserError(
        f"{missing} for {name!r}, and the download failed ({cause[:200]}). Either (1) provide a `model`"
        " channel with the model.tar.gz of an earlier job, a transformers folder or a torchvision state dict; (2) use"
        " an image that was built with these weights; or (3) give the job network access to the hub."
        f"{alternative}"
    )


def _in_channel(channel: Path, scratch: Path) -> Source:
    location = "model channel"
    if not channel.is_dir():
        raise UserError(
            f"The folder of the model channel does not exist: {channel}. Provide a model, or remove the channel."
        )
    refuse_external_links(channel, location)
    source = identify_source(channel, location)
    entries = [path for path in sorted(channel.iterdir()) if not path.name.startswith(".")]
    files = [path for path in entries if path.is_file() and (source is None or path != source.path)]
    archives = [path for path in files if is_archive(path)]
    if source is not None and source.kind == "state dict" and source.path is not None and archives:
        raise UserError(
            f"The {location} contains weights ({source.path.name}) and an archive ({archives[0].name}): keep only the"
            " one to start from."
        )
    if source is not None:
        return source
    # The output folder of an earlier job also contains its output.tar.gz.
    archives = [path for path in archives if path.name == _JOB_ARTIFACT] or archives
    container = f"The {location}"
    folder = channel
    if len(archives) == 1:
        folder = unpack(archives[0], scratch)
        container = f"{archives[0].name} of the {location}"
        source = identify_source(folder, container)
        if source is not None:
            return source
    raise _no_model_error(folder, container)


def _no_model_error(folder: Path, container: str) -> UserError:
    """Create the error for a folder without a model, which lists its contents."""
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    shown = ", ".join(f"{path.name}/" if path.is_dir() else path.name for path in entries[:5]) or "nothing"
    foreign = next(
        (text for path in (folder, *filter(Path.is_dir, entries)) if (text := describe_other_format(path))), None
    )
    return UserError(
        f"{container} contains no supported model; it contains {shown}.{f' {foreign}.' if foreign else ''} Provide one"
        f" archive ({', '.join(ARCHIVE_SUFFIXES)}), or unpacked: an artifact of an earlier job, a transformers folder"
        f" with {CONFIG_FILE}, or a torchvision state dict ({', '.join(STATE_DICT_SUFFIXES)})."
    )


def _check_model_name(name: str) -> None:
    """Refuse a name that is valid for no file system and no hub.

    Raises:
        UserError: the name is too long, or has control characters.
    """
    longest_part = max(map(len, name.encode("utf-8", "replace").split(b"/")))
    if not name.isprintable() or longest_part > _MAX_NAME_BYTES or len(name) > _MAX_PATH_LENGTH:
        raise UserError(
            f"model_name={name[:60]!r}{f'... ({len(name)} characters)' if len(name) > 60 else ''} is unknown: provide"
            " the name of a classifier of torchvision or of a model on the hub, or the path of a folder."
        )


def _in_folder(folder: Path) -> Source:
    location = f"folder {folder}"
    source = identify_source(folder, location) if folder.is_dir() and folder != Path(folder.anchor) else None
    if source is not None and source.path is not None:
        root = source.path if source.path.is_dir() else source.path.parent
        # A snapshot in the hub's cache consists of links to the neighboring blobs folder.
        refuse_external_links(root.parents[1] if root.parent.name == "snapshots" else root, location)
    if source is None:
        raise UserError(
            f"model_name={str(folder)!r} is not a folder with a model: use a model name, or use the model channel."
        )
    return source


def _in_image(weights: Path, name: str) -> Source | None:
    folder = weights / name
    if not folder.resolve().is_relative_to(weights.resolve()):
        return None
    if folder.is_dir():
        source = identify_source(folder, IMAGE_WEIGHTS)
        if source is not None:
            return Source(source.kind, IMAGE_WEIGHTS, source.path, source.name or name, source.artifact)
    files = (folder.with_name(folder.name + suffix) for suffix in STATE_DICT_SUFFIXES)
    return next((Source("state dict", IMAGE_WEIGHTS, path, name) for path in files if path.is_file()), None)
