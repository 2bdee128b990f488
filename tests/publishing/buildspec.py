"""Runs a buildspec phase by phase, as CodeBuild documents it.

All commands share one shell. The first failing command ends its phase. After a failed install or pre_build the build
ends; after a failed build, post_build still runs, with CODEBUILD_BUILD_SUCCEEDING=0. Artifacts are collected only from
successful builds.

Source: https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html and view-build-details-phases.html.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PHASES = ("install", "pre_build", "build", "post_build")


@dataclass
class Build:
    """A finished build.

    Attributes:
        ran: commands by phase, up to the last one that ran.
        failed: the failed command of each phase.
        artifacts: collected files, by their path in the source folder.
    """

    log: str = ""
    ran: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        """Whether no command failed."""
        return not self.failed


class Shell:
    """One shell that runs commands in sequence, and their common log."""

    def __init__(self, folder: Path, variables: Mapping[str, str], log: Path) -> None:
        read, write = os.pipe()
        self._statuses = os.fdopen(read)
        with log.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                ["bash"],
                cwd=folder,
                env=variables,
                pass_fds=(write,),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        os.close(write)
        self._answer = f"echo $? >&{write}"
        self._script = log.with_suffix(".command")

    def run(self, command: str) -> bool:
        """Run a command; return whether it succeeded. If a command ends the shell itself, all later ones fail."""
        assert self._process.stdin is not None
        self._script.write_text(command + "\n", encoding="utf-8")
        try:
            self._process.stdin.write(f". '{self._script}' </dev/null; {self._answer}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return self._statuses.readline().strip() == "0"

    def close(self) -> None:
        """End the shell."""
        self._process.communicate()
        self._statuses.close()


def run_build(source: Path, variables: Mapping[str, str], log: Path) -> Build:
    """Run the `buildspec.yml` of a folder.

    Args:
        source: the folder, which is CODEBUILD_SRC_DIR; a Git repository.
        variables: environment variables; like those of a build's start, they override the buildspec's own.
        log: file for the output of the commands.
    """
    specification = yaml.safe_load((source / "buildspec.yml").read_text(encoding="utf-8"))
    assert str(specification["version"]) == "0.2"
    assert specification["env"]["shell"] == "bash"
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=source, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    declared = {name: str(value) for name, value in specification["env"]["variables"].items()}
    of_codebuild = {"CODEBUILD_SRC_DIR": str(source), "CODEBUILD_RESOLVED_SOURCE_VERSION": revision, "CI": "true"}
    build, shell = Build(), Shell(source, {**declared, **variables, **of_codebuild}, log)
    try:
        _run_phases(specification["phases"], shell, build)
    finally:
        shell.close()
    build.log = log.read_text(encoding="utf-8")
    if build.succeeded:
        build.artifacts = {name: (source / name).read_bytes() for name in specification["artifacts"]["files"]}
    return build


def _run_phases(phases: Mapping[str, Any], shell: Shell, build: Build) -> None:
    for phase in PHASES:
        if build.failed and not (phase == "post_build" and "build" in build.ran):
            continue
        build.ran[phase] = []
        shell.run(f"export CODEBUILD_BUILD_SUCCEEDING={int(build.succeeded)}")
        for command in phases[phase]["commands"]:
            build.ran[phase].append(command)
            if not shell.run(command):
                build.failed[phase] = command
                break
