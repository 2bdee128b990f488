"""The commands `finetune compare` and `finetune report`: show the results of jobs."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.terminal import messages, output
from finetune.cli.train import shown_path
from finetune.errors import PlatformError, UserError

if TYPE_CHECKING:
    from rich.table import Table

    from finetune.monitoring.report.comparison import ComparedJob

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a job, such as runs/NAME-TIME.")]
_Runs = Annotated[
    list[Path] | None, typer.Argument(metavar="RUN...", help="Folders of jobs; by default all jobs in runs/.")
]
_Page = Annotated[Path, typer.Option("--html", help="File of the page with tables and curves.")]
_Browser = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")]


def report(run: _Run, *, browser: _Browser = True) -> None:
    """Print the path of a job's report, and open it in a browser."""
    from finetune.local.comparison import find_results

    page = find_results(run) / "report.html"
    if not page.is_file():
        raise UserError(f"{page.parent} contains no report.html.")
    _show(page, browser=browser)


def compare(runs: _Runs = None, *, html: _Page = Path("comparison.html"), browser: _Browser = False) -> None:
    """Compare jobs: metrics, hyperparameters that differ, duration and device, the best job first.

    The page contains the same tables and the curves of all jobs.
    """
    from finetune.local.comparison import compare_runs, find_runs
    from finetune.monitoring.report.comparison import comparison_page, differing_settings, result_columns

    jobs = compare_runs(runs or find_runs())
    console, settings = output(), differing_settings(jobs)
    console.print(results_table(jobs, {job.name: job.results for job in jobs}, result_columns(jobs)))
    if settings:
        console.print("Hyperparameters that differ:")
        console.print(results_table(jobs, {job.name: job.settings for job in jobs}, settings))
    try:
        html.write_text(comparison_page(jobs), encoding="utf-8")
    except OSError as error:
        raise PlatformError(f"The page cannot be written to {html}: {error.strerror}.") from error
    _show(html, browser=browser)


def results_table(
    jobs: Sequence[ComparedJob], values: Mapping[str, Mapping[str, str]], columns: Sequence[str]
) -> Table:
    """Return a table with a row per job, the first one in bold."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table("job", *columns, box=SIMPLE, pad_edge=False)
    for index, job in enumerate(jobs):
        cells = (job.name, *(values[job.name].get(name, "") for name in columns))
        table.add_row(*map(Text, cells), style="bold" if not index and len(jobs) > 1 else "")
    return table


def _show(page: Path, *, browser: bool) -> None:
    output().print(shown_path(page.absolute()))
    if browser and not webbrowser.open(page.absolute().as_uri()):
        messages().print("There is no browser on this machine; open the file elsewhere.")
