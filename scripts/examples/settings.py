"""Command-line settings of all examples."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

METRICS = {
    "train:loss": r"train:loss=([0-9.]+);",
    "validation:loss": r"validation:loss=([0-9.]+);",
    "validation:accuracy": r"validation:accuracy=([0-9.]+);",
}
"""Metric definitions for the platform: name, and regular expression of the value in the log."""

CONTENT_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".txt": "text/plain",
}
"""Content types of requests to endpoints, by the endings of files; others are images."""

# Set explicitly, so that no client queries IAM for it.
_NO_ROLE = "arn:aws:iam::000000000000:role/local-mode"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of an example: where the job runs, its inputs and its outputs.

    Attributes:
        channels: URI of every channel by its name, `s3://` or, in local mode, `file://` as well.
        output: URI for the artifacts; empty if there are none.
        model: URI of an earlier job's `model.tar.gz`, for the examples that start from one.
        local: whether to use this machine's Docker engine, in the client's local mode.
        request: file to send to an endpoint.
    """

    image: str
    role: str
    channels: Mapping[str, str]
    output: str
    model: str | None
    hyperparameters: Mapping[str, str]
    instance_type: str
    instance_count: int
    local: bool
    wait: bool
    request: Path | None = None


def content_type_of(path: Path) -> str:
    """Return the content type of a request with the content of a file."""
    return CONTENT_TYPES.get(path.suffix.lower(), "application/x-image")


def read_settings(
    description: str | None, *, begins_with_model: bool = False, has_local_form: bool = True, deploys: bool = False
) -> Settings:
    """Read the command line; `--help` shows `description`.

    Args:
        description: the example's docstring.
        begins_with_model: whether it needs the artifact of an earlier job.
        has_local_form: whether it works in local mode.
        deploys: whether it creates an endpoint, which has no output.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True, help="URI of the image, in ECR or, in local mode, on this machine")
    parser.add_argument("--role", help="ARN of the role that the job assumes; not needed in local mode")
    parser.add_argument("--channel", action="append", default=[], metavar="NAME=URI", help="for example train=s3://...")
    parser.add_argument("--output", required=not deploys, default="", metavar="URI", help="S3 location of the output")
    if deploys:
        parser.add_argument(
            "--predict", type=Path, metavar="FILE", help="send this file to the endpoint, then delete it"
        )
    parser.add_argument("--model", required=begins_with_model, metavar="URI", help="model.tar.gz of an earlier job")
    parser.add_argument("--hyperparameter", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--instance-type", default="ml.g5.xlarge")
    parser.add_argument("--instance-count", type=int, default=1)
    parser.add_argument("--no-wait", action="store_true", help="return when the request is accepted")
    if has_local_form:
        parser.add_argument("--local", action="store_true", help="run on this machine's Docker engine")
    options = parser.parse_args()
    local = has_local_form and options.local
    if not local and not options.role:
        parser.error("--role is needed outside local mode")
    return Settings(
        image=options.image,
        role=options.role or _NO_ROLE,
        channels=_pairs(parser, options.channel),
        output=options.output,
        model=options.model,
        hyperparameters=_pairs(parser, options.hyperparameter),
        instance_type=options.instance_type,
        instance_count=options.instance_count,
        local=local,
        wait=not options.no_wait,
        request=options.predict if deploys else None,
    )


def _pairs(parser: argparse.ArgumentParser, texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            parser.error(f"{text!r}: expected NAME=VALUE")
        pairs[name] = value
    return pairs
