"""The application `finetune`: its commands, and the exit codes of failures.

Commands import PyTorch and the rest of the package when they run, so that `finetune --help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import finetune
from finetune.cli.compare import compare, report
from finetune.cli.doctor import doctor
from finetune.cli.predict import predict
from finetune.cli.serve import serve
from finetune.cli.terminal import messages
from finetune.cli.train import resume, train
from finetune.cli.tune import tune
from finetune.errors import JobError

app = typer.Typer(
    help="Fine-tune image and text models on your data, and use them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(resume)
app.command()(predict)
app.command()(serve)
app.command()(report)
app.command()(compare)
app.command()(tune)
app.command()(doctor)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"finetune {finetune.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line; failures with a known cause end with their message and exit code."""
    try:
        app()
    except JobError as error:
        messages().print(f"finetune: {error}")
        sys.exit(error.exit_code)
