"""Settings of the server, read from environment variables.

Names starting with `SAGEMAKER_` and `MAX_CONTENT_LENGTH` are those of the platform and its toolkits, the others are
this image's own. Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html and its
sibling pages.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import UserError
from finetune.sagemaker.paths import Paths

MIB = 2**20
REAL_TIME_MIB = 6
TRANSFORM_MIB = 100
"""The platform's largest request: to an endpoint with the default limit, and in a batch transform job."""
_TRUE = frozenset({"true", "1"})
_FALSE = frozenset({"false", "0", ""})


@dataclass(frozen=True, slots=True)
class ServingConfiguration:
    """Settings of the server.

    Attributes:
        model_folder: folder of the unpacked artifact; unused by a multi-model server.
        multi_model: whether models are loaded by requests to `/models`.
        port: port to listen on.
        max_batch: largest number of records in one forward pass.
        max_delay_seconds: longest time for which a record waits for further ones that are being preprocessed.
        max_requests: number of accepted requests without an answer; further ones are answered with 503.
        max_wait_seconds: while a request waits for longer than this, further ones are answered with 503.
        max_body_bytes: largest accepted request body.
        transform_mib: largest body that a batch transform job should send, in MiB.
        workers: threads that run forward passes; `None` for one per GPU, or one on a CPU.
        default_accept: response type for requests without `Accept`.
        host: address to listen on; empty for all interfaces.
    """

    model_folder: Path
    multi_model: bool = False
    port: int = 8080
    max_batch: int = 32
    max_delay_seconds: float = 0.005
    max_requests: int = 256
    max_wait_seconds: float = 10.0
    max_body_bytes: int = REAL_TIME_MIB * MIB
    transform_mib: int = REAL_TIME_MIB
    workers: int | None = None
    default_accept: str = "application/json"
    host: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ServingConfiguration:
        """Read the settings.

        Raises:
            UserError: a variable has an invalid value.
        """
        delay = _integer(environment, "FINETUNE_MAX_DELAY_MS", 5, maximum=60_000)
        max_body_bytes, is_explicit = _max_body_bytes(environment)
        workers = _integer(environment, "SAGEMAKER_MODEL_SERVER_WORKERS", 0, maximum=256)
        return cls(
            model_folder=Paths.from_environment(environment).model,
            multi_model=_boolean(environment, "SAGEMAKER_MULTI_MODEL"),
            port=_integer(environment, "SAGEMAKER_BIND_TO_PORT", 8080, minimum=1, maximum=65_535),
            max_batch=_integer(environment, "FINETUNE_MAX_BATCH", 32, minimum=1, maximum=4096),
            max_delay_seconds=delay / 1000,
            max_requests=_integer(environment, "FINETUNE_MAX_REQUESTS", 256, minimum=1, maximum=100_000),
            max_wait_seconds=_max_wait_seconds(environment),
            max_body_bytes=max_body_bytes,
            transform_mib=min(TRANSFORM_MIB, max(1, max_body_bytes // MIB)) if is_explicit else REAL_TIME_MIB,
            workers=workers or None,
            default_accept=environment.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT") or "application/json",
        )


def _max_wait_seconds(environment: Mapping[str, str]) -> float:
    """`FINETUNE_MAX_WAIT_S`; by default batch transform, which sends few requests at a time, has no limit."""
    default = 0 if _boolean(environment, "SAGEMAKER_BATCH") else 10
    return _integer(environment, "FINETUNE_MAX_WAIT_S", default, maximum=86_400) or math.inf


def _max_body_bytes(environment: Mapping[str, str]) -> tuple[int, bool]:
    """`MAX_CONTENT_LENGTH` or the limit of the batch transform job, and `True`; or a default, and `False`."""
    is_transform = _boolean(environment, "SAGEMAKER_BATCH")
    # 0 lets a batch transform job send records of any size.
    payload = _integer(environment, "SAGEMAKER_MAX_PAYLOAD_IN_MB", 0, maximum=1 << 20)
    default = payload or (TRANSFORM_MIB if is_transform else REAL_TIME_MIB)
    size = _integer(environment, "MAX_CONTENT_LENGTH", 0, maximum=1 << 40)
    return size or default * MIB, bool(size or payload)


def _integer(environment: Mapping[str, str], name: str, default: int, *, minimum: int = 0, maximum: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
    if value is None or not minimum <= value <= maximum:
        raise UserError(
            f"{name}={text!r} is not an integer from {minimum} to {maximum}; correct or unset the variable."
        )
    return value


def _boolean(environment: Mapping[str, str], name: str) -> bool:
    text = environment.get(name, "").strip().lower()
    if text not in _TRUE | _FALSE:
        raise UserError(f"{name}={text!r} is neither true nor false; correct or unset the variable.")
    return text in _TRUE
