"""Settings of the server from environment variables."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.serving.configuration import MIB, ServingConfiguration


def read(**environment: str) -> ServingConfiguration:
    return ServingConfiguration.from_environment(environment)


def test_defaults_are_those_of_the_contract() -> None:
    assert read() == ServingConfiguration(Path("/opt/ml/model"))
    assert (read().port, read().max_body_bytes, read().multi_model) == (8080, 6 * MIB, False)


def test_variables_of_the_platform_are_read() -> None:
    configuration = read(
        SAGEMAKER_BASE_DIR="/other",
        SAGEMAKER_BIND_TO_PORT="9000",
        SAGEMAKER_MULTI_MODEL="true",
        SAGEMAKER_MODEL_SERVER_WORKERS="3",
        SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT="text/csv",
        FINETUNE_MAX_BATCH="8",
        FINETUNE_MAX_DELAY_MS="20",
        FINETUNE_MAX_REQUESTS="50",
        FINETUNE_MAX_WAIT_S="3",
    )
    assert configuration == ServingConfiguration(
        Path("/other/model"), True, 9000, 8, 0.02, 50, 3, workers=3, default_accept="text/csv"
    )


@pytest.mark.parametrize(
    ("environment", "body_bytes", "transform_mib"),
    [
        ({"SAGEMAKER_BATCH": "True"}, 100 * MIB, 6),
        ({"SAGEMAKER_BATCH": "true", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "20"}, 20 * MIB, 20),
        ({"SAGEMAKER_BATCH": "true", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}, 100 * MIB, 6),
        ({"MAX_CONTENT_LENGTH": str(1 << 30)}, 1 << 30, 100),
        ({"MAX_CONTENT_LENGTH": "1000", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "20"}, 1000, 1),
    ],
)
def test_body_limit_depends_on_the_job(environment: dict[str, str], body_bytes: int, transform_mib: int) -> None:
    configuration = read(**environment)
    assert (configuration.max_body_bytes, configuration.transform_mib) == (body_bytes, transform_mib)


def test_wait_is_unlimited_in_batch_transform_and_on_request() -> None:
    assert read(SAGEMAKER_BATCH="true").max_wait_seconds == math.inf
    assert read(FINETUNE_MAX_WAIT_S="0").max_wait_seconds == math.inf
    assert read(SAGEMAKER_BATCH="true", FINETUNE_MAX_WAIT_S="5").max_wait_seconds == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "0"),
        ("SAGEMAKER_BIND_TO_PORT", "http"),
        ("FINETUNE_MAX_BATCH", "0"),
        ("FINETUNE_MAX_DELAY_MS", "-1"),
        ("MAX_CONTENT_LENGTH", "6MB"),
        ("SAGEMAKER_MULTI_MODEL", "maybe"),
    ],
)
def test_invalid_values_are_named(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{name}='{value}' is "):
        read(**{name: value})


def test_page_documents_all_variables_and_their_defaults() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    code = (root / "src" / "finetune" / "serving" / "configuration.py").read_text(encoding="utf-8")
    variables = r"\b(?:SAGEMAKER|FINETUNE)_[A-Z_]+[A-Z]\b|\bMAX_CONTENT_LENGTH\b"
    assert set(re.findall(variables, page)) == set(re.findall(variables, code))
    defaults = dict(re.findall(r"^\| `(\w+)` \| `?([\w/]+)`? ?\w* \|", page, re.MULTILINE))
    assert defaults["SAGEMAKER_BIND_TO_PORT"] == str(read().port)
    assert defaults["FINETUNE_MAX_BATCH"] == str(read().max_batch)
    assert defaults["FINETUNE_MAX_DELAY_MS"] == f"{1000 * read().max_delay_seconds:.0f}"
    assert defaults["FINETUNE_MAX_REQUESTS"] == str(read().max_requests)
    assert defaults["FINETUNE_MAX_WAIT_S"] == f"{read().max_wait_seconds:.0f}"
    assert defaults["SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"] == read().default_accept
