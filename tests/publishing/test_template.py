"""The CloudFormation template is valid, and its role has no more permissions than the build needs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cfnlint.decode.cfn_yaml import load

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "scripts" / "codebuild.yml"


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(load(str(TEMPLATE))["Resources"], default=str))
    return loaded


def statements(resources: dict[str, Any]) -> list[dict[str, Any]]:
    (policy,) = resources["Role"]["Properties"]["Policies"]
    entries: list[dict[str, Any]] = policy["PolicyDocument"]["Statement"]
    return entries


def test_cfn_lint_passes() -> None:
    command = (str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", str(TEMPLATE))
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (completed.returncode, completed.stdout) == (0, "")


def test_permissions_are_explicit_and_scoped_except_login(resources: dict[str, Any]) -> None:
    for statement in statements(resources):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions)
        assert (statement["Resource"] == "*") == (actions == ["ecr:GetAuthorizationToken"])


def test_role_allows_actions_of_push(resources: dict[str, Any]) -> None:
    allowed = {
        action for statement in statements(resources) for action in statement["Action"] if action.startswith("ecr:")
    }
    script = (ROOT / "scripts" / "push-image").read_text(encoding="utf-8")
    used_actions = set(re.findall(r"aws ecr ([a-z-]+)", script)) - {"get-login-password"}
    assert {f"ecr:{name.title().replace('-', '')}" for name in used_actions} <= allowed


def test_repository_is_retained_and_scans(resources: dict[str, Any]) -> None:
    repository = resources["Repository"]
    assert repository["DeletionPolicy"] == "Retain"
    assert repository["Properties"]["ImageScanningConfiguration"]["ScanOnPush"] in {True, "true"}
    assert json.loads(repository["Properties"]["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]


def test_project_runs_buildspec(resources: dict[str, Any]) -> None:
    project = resources["Project"]["Properties"]
    assert (ROOT / project["Source"]["BuildSpec"]).is_file()
    variables = {variable["Name"] for variable in project["Environment"]["EnvironmentVariables"]}
    buildspec = (ROOT / "buildspec.yml").read_text(encoding="utf-8")
    assert all(f"\n    {name}:" in buildspec for name in variables)
