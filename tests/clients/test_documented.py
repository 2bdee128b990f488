"""The pages name every existing example and script and no others, and their snippets run."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from tests.clients.recording_aws import ACCOUNT, REGION, TRUST, recording_aws

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


def test_page_names_exactly_the_existing_examples() -> None:
    files = (ROOT / "scripts" / "examples").glob("sdk_v*/*.py")
    examples = {f"{path.parent.name}/{path.stem}" for path in files if "__main__" in path.read_text(encoding="utf-8")}
    assert set(re.findall(r"sdk_v\d/\w+", PAGE)) == examples


def test_named_files_exist() -> None:
    named = set(re.findall(r"`((?:scripts|tests)/[\w./-]+|buildspec\.yml)", PAGE))
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_hyperparameters_of_page_exist() -> None:
    table = (ROOT / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
    used = {name for block in re.findall(r"hyperparameters=\{(.*?)\}", PAGE) for name in re.findall(r'"(\w+)":', block)}
    assert used
    assert {name for name in used if f"`{name}`" not in table} == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "sdk"), [("README.md", "sdk_v2"), ("docs/clients.md", "sdk_v2"), ("docs/clients.md", "sdk_v3")]
)
def test_snippets_of_page_are_accepted_by_sdk(
    page: str, sdk: str, environment_of: Callable[[str], Path], quiet: dict[str, str]
) -> None:
    pieces = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    shown = [piece for piece in pieces if ("ModelTrainer" in piece) == (sdk == "sdk_v3")]
    expected_jobs = sum(piece.count(".fit(") + piece.count(".train(") for piece in shown)
    image, role = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/finetune:0.2.0", f"arn:aws:iam::{ACCOUNT}:role/finetune"
    python = environment_of(sdk.replace("_", "-")) / "bin" / "python"
    command = (str(python), "-P", str(Path(__file__).with_name("run_snippets.py")), sdk, image, role, "finetune-pages")
    with recording_aws() as aws:
        boto3.client("iam", endpoint_url=aws.url, region_name=REGION, **aws.credentials).create_role(
            RoleName="finetune", AssumeRolePolicyDocument=json.dumps(TRUST)
        )
        variables = {**quiet, **aws.environment()}
        completed = subprocess.run(
            command, env=variables, input=json.dumps(shown), capture_output=True, text=True, check=False
        )
        assert completed.returncode == 0, completed.stderr
        assert len(aws.sent("CreateTrainingJob")) == expected_jobs > 0
