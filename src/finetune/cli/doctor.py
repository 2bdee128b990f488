"""The command `finetune doctor`: checks whether this machine can train."""

from __future__ import annotations

import typer

from finetune.cli.terminal import output
from finetune.errors import PlatformError

_STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def doctor() -> None:
    """Check whether this machine can train: software, memory, disk, network, GPUs, and a training step on each device.

    The exit code is 2 if training cannot work.
    """
    from rich.text import Text

    from finetune.local.diagnosis import diagnose

    console = output()
    failures = 0
    for check in diagnose():
        failures += check.level == "failure"
        console.print(Text.assemble((f"{check.level:<8}", _STYLES[check.level]), f" {check.name:<15} {check.text}"))
    if failures:
        raise typer.Exit(PlatformError.exit_code)
