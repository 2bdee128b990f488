"""Validates that the platform could send the requested content of a channel in Pipe mode."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from sagemaker_simulator.object_stream import PipeSource, list_objects, object_path

_GZIP = b"\x1f\x8b"


def find_fault(source: Path, options: PipeSource) -> str:
    """Return the first fault, with its place and a remedy; empty if everything can be sent.

    Args:
        source: A folder representing an S3 prefix, or a file: the only object or the manifest.
        options: Content to send.
    """
    if options.data_type != "S3Prefix" and not source.is_file():
        return f"{source} is not a file; --data-type {options.data_type} requires a manifest file"
    try:
        if options.data_type == "AugmentedManifestFile":
            return _find_manifest_fault(source, options)
        paths = list_objects(source, options)
    except UnicodeDecodeError as error:
        return f"{source} is not a UTF-8 manifest: {error.reason} at byte {error.start}"
    except (ValueError, TypeError, KeyError):
        return f'{source} is not a manifest: expected a JSON list of {{"prefix": ...}} and names'
    return _find_object_fault(paths, options)


def _find_manifest_fault(manifest: Path, options: PipeSource) -> str:
    for number, text in enumerate(manifest.read_text(encoding="utf-8").split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{manifest}, line {number}"
        try:
            line = json.loads(text)
        except ValueError as error:
            return f"{where} is not JSON ({error}); expected one object per line"
        if not isinstance(line, dict):
            return f"{where} is not a JSON object; expected one per line"
        fault = _find_line_fault(line, manifest.parent, options)
        if fault:
            return f"{where} {fault}"
    return ""


def _find_line_fault(line: dict[str, object], folder: Path, options: PipeSource) -> str:
    missing = [name for name in options.attributes if name not in line]
    if missing:
        available = ", ".join(line) or "none"
        return f"has no attribute {missing[0]!r}; available for --attribute-names: {available}"
    uris: Sequence[str] = [str(line[name]) for name in options.attributes if name.endswith("-ref")]
    fault = _find_object_fault([object_path(uri, folder) for uri in uris], options)
    return f"refers to an invalid object: {fault}" if fault else ""


def _find_object_fault(paths: Iterable[Path], options: PipeSource) -> str:
    for path in paths:
        if not path.is_file():
            return f"{path} does not exist or is not a file"
        if options.inflated and not _begins_with_gzip(path):
            return f"{path} is not compressed with gzip; remove --gzip"
    return ""


def _begins_with_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP
