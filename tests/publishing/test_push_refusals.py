"""`scripts/push-image` reports missing prerequisites before pushing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# An engine that has one image, and cannot push.
DOCKER = """
case "$1 $2" in
"info ") exit ${ENGINE:-0} ;;
"image inspect")
    case "$*" in
    *missing*) exit 1 ;;
    *version*) echo "${VERSION-0.2.0}" ;;
    *revision*) echo "$REVISION" ;;
    esac
    ;;
"login --username") cat >/dev/null; echo "${LOGIN-}" >&2; [ -z "${LOGIN-}" ] ;;
"push --quiet") echo "push $3" >>"$CALLS"; exit ${PUSH:-0} ;;
"logout "*) echo logout >>"$CALLS" ;;
esac
"""
AWS = """
case "$1 $2" in
"sts get-caller-identity") if [ -n "${NOBODY-}" ]; then echo "$NOBODY" >&2; exit 1; fi ;;
"ecr describe-repositories") if [ -n "${DENIED-}" ]; then echo "$DENIED" >&2; exit 1; fi; echo host/finetune ;;
"ecr get-login-password") echo secret ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    for name, script in (("docker", DOCKER), ("aws", AWS)):
        (tmp_path / name).write_text(f"#!/bin/sh{script}", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def push(machine: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{machine}{os.pathsep}/usr/bin:/bin", "CALLS": str(machine / "calls"), "REVISION": COMMIT}
    command = (str(ROOT / "scripts" / "push-image"), *arguments)
    return subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, check=False)


REFUSALS = {
    "no engine": ((), {"ENGINE": "1"}, "no Docker engine answers"),
    "no image": (("missing:1",), {}, "there is no image missing:1: build it with scripts/build-image"),
    "no version": ((), {"VERSION": ""}, "does not say its version and revision"),
    "changed files": ((), {"REVISION": f"{COMMIT}-changed"}, "built from files that no commit holds"),
    "no commit": ((), {"REVISION": "unknown"}, "built from files that no commit holds"),
    "no credentials": ((), {"NOBODY": "Unable to locate credentials"}, "who you are: Unable to locate credentials"),
    "no right": ((), {"DENIED": "AccessDeniedException: no"}, "finetune cannot be looked up: AccessDeniedException"),
    "wrong password": ((), {"LOGIN": "unauthorized"}, "host refuses the login: unauthorized"),
    "failing push": ((), {"PUSH": "1"}, "host/finetune:0.2.0 could not be pushed"),
}


@pytest.mark.parametrize(("arguments", "variables", "message"), REFUSALS.values(), ids=REFUSALS)
def test_push_is_refused_with_reason(
    machine: Path, arguments: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    completed = push(machine, *arguments, **variables)
    assert completed.returncode == 1
    assert completed.stderr.startswith("push-image: ")
    assert message in completed.stderr
    calls = machine / "calls"
    assert not calls.exists() or "PUSH" in variables or "push" not in calls.read_text(encoding="utf-8")


def test_failing_push_logs_out(machine: Path) -> None:
    push(machine, PUSH="1")
    assert "logout" in (machine / "calls").read_text(encoding="utf-8").splitlines()


def test_missing_aws_cli_is_reported(machine: Path) -> None:
    (machine / "aws").unlink()
    assert "the AWS command line is missing" in push(machine).stderr


def test_unknown_options_are_refused(machine: Path) -> None:
    completed = push(machine, "--force")
    assert completed.returncode == 2
    assert "scripts/push-image [--detail FILE]" in completed.stderr
