"""The commands `finetune train` and `finetune resume`: run a job on this machine."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.terminal import output
from finetune.errors import JobError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from finetune.local.run_folder import RunFolder, Status

_Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder per class, CSV, TSV, JSON Lines, Parquet, or any other input of the channel `train`; or a folder"
        " that contains `train` and `validation` or `test`.",
    ),
]
_Part = Annotated[Path | None, typer.Option(help="Records of the same form; else held out of DATA.")]
_Test = Annotated[Path | None, typer.Option(help="Records of the same form, evaluated at the end.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Name of a pretrained model, or path of a model or of an earlier job."),
]
_Hyperparameters = Annotated[
    list[str] | None,
    typer.Option("--hyperparameter", "-p", metavar="NAME=VALUE", help="Hyperparameter (repeatable)."),
]
_Channels = Annotated[
    list[str] | None,
    typer.Option("--channel", "-c", metavar="NAME=PATH", help="Another channel, such as labels (repeatable)."),
]
_Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the job; else runs/NAME-TIME.")]
_Name = Annotated[str | None, typer.Option("--name", help="Name of the job; else that of the data.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only epochs, warnings and the result.")]
_Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a job, such as runs/NAME-TIME.")]


def train(  # noqa: PLR0913 - one parameter per option
    data: _Data,
    *,
    validation: _Part = None,
    test: _Test = None,
    model: ModelOption = None,
    hyperparameters: _Hyperparameters = None,
    channels: _Channels = None,
    output: _Output = None,
    name: _Name = None,
    quiet: _Quiet = False,
) -> None:
    """Fine-tune a model on your images or texts, on this machine.

    The job is the same as on SageMaker. Ctrl-C stops it and saves its state; `finetune resume` continues it.
    """
    from finetune.local.training import TrainingOptions, prepare

    given: dict[str, Path | None] = {"validation": validation, "test": test}
    given |= {channel: Path(path) for channel, path in parse_pairs(channels or [], "--channel", "NAME=PATH").items()}
    values = parse_pairs(hyperparameters or [], "--hyperparameter", "NAME=VALUE")
    show_run(prepare(TrainingOptions(data, given, model, values, output), name), quiet=quiet)


def resume(run: _Run, *, quiet: _Quiet = False) -> None:
    """Continue a job that was stopped or failed, from its last checkpoint."""
    from finetune.local.run_folder import open_run

    folder = open_run(run)
    if folder.status() == "finished":
        raise UserError(
            f"{run} is finished, so there is nothing to resume. To train its model further, use"
            f" finetune train DATA --model {run}."
        )
    show_run(folder, quiet=quiet)


def show_run(run: RunFolder, *, quiet: bool = False) -> None:
    """Run a job, show it, and print its result.

    Raises:
        JobError: the job failed; the message is the cause, followed by the paths of the log and of the traceback.
    """
    from finetune.cli.training_display import display
    from finetune.local.process import run_job
    from finetune.local.training import check_ended

    console = output()
    console.print(f"job {shown_path(run.root)}")
    with display(console, run.hyperparameters().get("best_metric"), quiet=quiet) as listener:
        status = run_job(run, listener)
    try:
        check_ended(run, status)
    except JobError as error:
        raise type(error)(f"{error}\n{_failure_lines(run)}") from error
    _print_result(console, run, status)


def _failure_lines(run: RunFolder) -> str:
    from finetune.local.results import TRACEBACK

    lines = [f"log        {shown_path(run.log)}"]
    if TRACEBACK in run.failure():
        lines.append(f"traceback  {shown_path(run.paths.failure)}")
    if any(run.paths.checkpoints.glob("*")):
        lines.append(f"resume     finetune resume {_quoted(run.root)}")
    return "\n".join(lines)


def _print_result(console: Console, run: RunFolder, status: Status) -> None:
    from finetune.local.results import score_of_run, verdict_of_run
    from finetune.monitoring.progress import format_duration

    console.print()
    if status == "stopped":
        console.print("Stopped. The state is saved.", style="yellow")
    verdict, score = verdict_of_run(run), score_of_run(run)
    if verdict is not None and status == "finished":
        kind, headline = verdict
        console.print(headline, style={"good": "bold green", "warn": "bold yellow"}.get(kind, "bold red"))
    rows = {} if score is None else {score.name: str(score)}
    rows["time"] = format_duration(run.seconds())
    if run.report.is_file():
        rows["report"] = str(shown_path(run.report))
    if any(run.model.glob("*")):
        rows["model"] = str(shown_path(run.model))
        rows["predict"] = f"finetune predict {_quoted(run.root)} INPUT..."
    if status == "stopped":
        rows["resume"] = f"finetune resume {_quoted(run.root)}"
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        console.print(f"{name:<{width}}{value}")


def parse_pairs(texts: list[str], option: str, form: str) -> dict[str, str]:
    """Parse `NAME=VALUE` arguments of an option.

    Raises:
        UserError: a text has another form, or a name is given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{option} {text}: expected {option} {form}.")
        if name in pairs:
            raise UserError(f"{option} {name}=... is given more than once.")
        pairs[name] = value
    return pairs


def shown_path(path: Path) -> Path:
    """Return a path relative to the current folder, if it is below it."""
    current = Path(os.path.curdir).absolute()
    return path.relative_to(current) if path.is_relative_to(current) else path


def _quoted(path: Path) -> str:
    return shlex.quote(str(shown_path(path)))
