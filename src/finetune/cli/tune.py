"""The command `finetune tune`: searches hyperparameters by trials on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.terminal import output as standard_output
from finetune.cli.train import ModelOption, parse_pairs, shown_path
from finetune.local.process import Listener, SilentListener

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from finetune.local.tuning import TrialResult
    from finetune.runtime.live_progress import Progress as JobProgress

_Data = Annotated[Path, typer.Argument(metavar="DATA", help="Data as for `finetune train`.")]
_Trials = Annotated[int, typer.Option(min=1, help="Number of trials, each of which is a job.")]
_Search = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        "-s",
        metavar="NAME=RANGE",
        help="Hyperparameter to search: log:1e-5..1e-2, 0.6..1.0, int:3..10 or adamw,sgd (repeatable).",
    ),
]
_Metric = Annotated[str, typer.Option(help="Metric to optimize.")]
_Part = Annotated[Path | None, typer.Option(help="Records that all trials are compared on; else held out of DATA.")]
_Hyperparameters = Annotated[
    list[str] | None,
    typer.Option("--hyperparameter", "-p", metavar="NAME=VALUE", help="Fixed hyperparameter (repeatable)."),
]
_Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of the search; else runs/NAME-tune-TIME. An existing one is resumed."),
]
_Seed = Annotated[int, typer.Option(help="Seed of the sampler.")]
_KeepModels = Annotated[bool, typer.Option("--keep-models", help="Keep the models of all trials.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the equivalent SageMaker tuning job.")]


def tune(  # noqa: PLR0913 - one parameter per option
    data: _Data,
    *,
    trials: _Trials = 20,
    search: _Search = None,
    metric: _Metric = "validation:accuracy",
    validation: _Part = None,
    model: ModelOption = None,
    hyperparameters: _Hyperparameters = None,
    output: _Output = None,
    seed: _Seed = 0,
    keep_models: _KeepModels = False,
    dry_run: _DryRun = False,
) -> None:
    """Search hyperparameters by Optuna, and print the best ones and the same search as a SageMaker tuning job.

    Trials are sampled by TPE, and stopped when their metric is below the median of the others at the same epoch. Ctrl-C
    stops the search; the same command with `--output` continues it.
    """
    from finetune.local.channels import choose_model
    from finetune.local.run_folder import default_root
    from finetune.local.search_space import check_disjoint, find_objective, parse_ranges, sagemaker_code
    from finetune.local.training import TrainingOptions
    from finetune.local.tuning import Search, run_search

    ranges = parse_ranges(parse_pairs(search or [], "--search", "NAME=RANGE"))
    values = parse_pairs(hyperparameters or [], "--hyperparameter", "NAME=VALUE")
    check_disjoint(ranges, values)
    find_objective(metric)
    name = choose_model(model).name
    code = sagemaker_code(ranges, metric, trials, values if name is None else {"model_name": name, **values})
    console = standard_output()
    if dry_run:
        console.print(code, end="")
        return
    root = output or default_root(data, f"{data.absolute().stem}-tune")
    options = TrainingOptions(data, {"validation": validation}, model, values, root)
    console.print(f"search {shown_path(root.absolute())}")
    with _display(console, trials, metric) as listener:
        best = run_search(Search(options, ranges, metric, trials, seed, keep_models), listener)
    _print_best(console, best, root, metric)
    if not listener.stopped:
        console.print(f"\nThe same search on SageMaker, for an estimator of this image:\n\n{code}", end="")


def _print_best(console: Console, best: TrialResult | None, root: Path, metric: str) -> None:
    from finetune.local.search_space import describe_parameters

    if best is None:
        console.print("No trial is complete.")
        return
    run = shlex.quote(str(shown_path(best.path)))
    rows = {
        "best": f"trial {best.number}, {metric} {best.value:.4f}",
        "found": describe_parameters(best.parameters),
        "predict": f"finetune predict {run} INPUT...",
        "compare": f"finetune compare {shlex.quote(str(shown_path(root.absolute())))}/trial-*",
    }
    console.print()
    for name, value in rows.items():
        console.print(f"{name:<9}{value}")


class TrialDisplay:
    """Prints a line per trial, and shows the progress of the current one in a terminal.

    Attributes:
        stopped: whether the search was stopped on request.
    """

    def __init__(self, console: Console, bar: Progress | None, trials: int, metric: str) -> None:
        self._console = console
        self._bar = bar
        self._trials = trials
        self._metric = metric
        self.stopped = False

    def trial_begins(self, number: int, parameters: Mapping[str, object]) -> Listener:
        """Return the listener that shows the progress of a trial."""
        del parameters
        if self._bar is None:
            return SilentListener()
        return _TrialProgress(self._bar, f"trial {number} of {self._trials}")

    def trial_ends(self, result: TrialResult) -> None:
        """Print the result of a trial."""
        from finetune.local.search_space import describe_parameters

        self.stopped = result.state == "stopped"
        value = "" if result.value is None else f"{self._metric} {result.value:.4f}"
        outcome = {"complete": value, "pruned": f"stopped early at {value}", "failed": f"failed: {result.cause}"}
        line = f"trial {result.number:<3} {outcome.get(result.state, result.state)}{' *' if result.is_best else ''}"
        style = "bold green" if result.is_best else "yellow" if result.state == "failed" else ""
        self._console.print(f"{line}  {describe_parameters(result.parameters)}", style=style)


class _TrialProgress(SilentListener):
    def __init__(self, bar: Progress, name: str) -> None:
        self._bar = bar
        self._name = name
        for task in bar.task_ids:
            bar.remove_task(task)
        self._task = bar.add_task(name, total=None)

    def progress(self, progress: JobProgress) -> None:
        """Update the bar."""
        description = f"{self._name}, {progress.stage}"
        self._bar.update(self._task, description=description, completed=progress.done, total=progress.total or None)

    def stopping(self) -> None:
        """Show that the search stops."""
        self._bar.update(self._task, description=f"{self._name}, stopping")


@contextmanager
def _display(console: Console, trials: int, metric: str) -> Iterator[TrialDisplay]:
    if not console.is_terminal:
        yield TrialDisplay(console, None, trials, metric)
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True, refresh_per_second=5) as bar:
        yield TrialDisplay(console, bar, trials, metric)
