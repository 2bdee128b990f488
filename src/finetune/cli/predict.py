"""The command `finetune predict`: classifies files, folders, tables and standard input with a trained model."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.terminal import messages, progress
from finetune.errors import PlatformError, UserError

if TYPE_CHECKING:
    from finetune.cli.inputs import Content, Fault, Item
    from finetune.cli.results import ResultWriter
    from finetune.serving.predictor import Predictor

STDIN = "-"
FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""Formats of results by the ending of their file."""

_Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="model.tar.gz, the folder of its contents, or the folder of a job.")
]
_Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Images, folders with or without class folders, CSV, TSV, JSON Lines, Parquet and text files, or - for"
        " standard input: a path of an image or a text per line, or JSON Lines.",
    ),
]
_Output = Annotated[Path | None, typer.Option("--output", "-o", help="File of the results; else standard output.")]
_Format = Annotated[
    str | None, typer.Option("--format", metavar="csv|jsonl", help="Format of the results; else by the file's ending.")
]
_BatchSize = Annotated[int, typer.Option(min=1, help="Number of inputs in a forward pass.")]
_Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; by default a GPU if there is one.")]
_TopK = Annotated[int | None, typer.Option(min=1, help="Number of most probable classes in the results.")]
_MinConfidence = Annotated[
    float | None, typer.Option(min=0, max=1, help="Predict no label with a probability below this.")
]
_Column = Annotated[str | None, typer.Option(help="Column of tables; by default detected by its name.")]


def predict(  # noqa: PLR0913 - one parameter per option
    model: _Model,
    inputs: _Inputs,
    *,
    output: _Output = None,
    output_format: _Format = None,
    batch_size: _BatchSize = 32,
    device: _Device = None,
    top_k: _TopK = None,
    min_confidence: _MinConfidence = None,
    label_column: _Column = None,
    text_column: _Column = None,
    text_pair_column: _Column = None,
    image_column: _Column = None,
) -> None:
    """Classify images or texts, and write labels and probabilities as CSV or JSON Lines.

    Where labels are known, by class folders or a label column, print accuracy, macro F1 and a table of the classes. An
    input that cannot be classified is reported and skipped; the exit code is then 1.
    """
    format_name = _result_format(output, output_format)
    from finetune.cli.inputs import ModelInputs, find_items
    from finetune.cli.results import ResultWriter
    from finetune.cli.tables import TableColumns
    from finetune.serving.predictor import load_predictor

    predictor = load_predictor(model, device)
    expected = ModelInputs(
        predictor.labels, predictor.is_text_model, predictor.texts_per_record, predictor.is_multi_label
    )
    columns = TableColumns(label_column, text_column, text_pair_column, image_column)
    items: Iterable[Item | Fault] = find_items(inputs, expected, columns)
    if STDIN not in inputs:
        items = list(items)  # their number is that of the progress bar
    options = {"top_k": top_k, "min_confidence": min_confidence}
    try:
        with nullcontext(sys.stdout) if output is None else output.open("w", encoding="utf-8", newline="") as file:
            writer = ResultWriter(file, format_name, predictor.labels, top_k)
            run = _Run(predictor, writer, batch_size, options)
            run.classify(items)
    except OSError as error:
        if output is None:
            raise
        raise PlatformError(f"The results cannot be written to {output}: {error.strerror}.") from error
    run.summarize(output)
    if run.failures:
        raise typer.Exit(1)


def _result_format(output: Path | None, requested: str | None) -> str:
    """Return `csv` or `jsonl`.

    Raises:
        UserError: the format is unknown, or does not follow from the file's ending.
    """
    known = sorted(set(FORMATS.values()))
    if requested is not None and requested not in known:
        raise UserError(f"--format {requested}: expected {' or '.join(known)}.")
    if requested is not None or output is None:
        return requested or "csv"
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"--output {output}: end the name in {', '.join(FORMATS)}, or set --format.")
    return FORMATS[output.suffix.lower()]


class _Run:
    """A run over all inputs.

    Attributes:
        failures: number of inputs that were not classified.
    """

    def __init__(
        self, predictor: Predictor, writer: ResultWriter, batch_size: int, options: dict[str, float | None]
    ) -> None:
        from finetune.cli.scores import Scores

        self.failures = 0
        self._predictions = 0
        self._predictor = predictor
        self._writer = writer
        self._batch_size = batch_size
        self._options = options
        self._scores = Scores(predictor.labels)
        self._console = messages()
        self._pending: deque[Item] = deque()

    def classify(self, items: Iterable[Item | Fault]) -> None:
        """Classify all items and write their results; report faults and go on."""
        total = len(items) if isinstance(items, list) else None
        with progress(self._console, "Predicting", total) as count:
            outcomes = self._predictor.outcomes(self._contents(items), self._options, self._batch_size)
            for outcome in outcomes:
                item = self._pending.popleft()
                if isinstance(outcome, ValueError):
                    self._report(item.key, str(outcome))
                else:
                    self._writer.write(item.key, item.labels, outcome)
                    self._scores.add(item.labels, outcome)
                    self._predictions += 1
                count()

    def summarize(self, output: Path | None) -> None:
        """Print the number of results and failures, and scores if there are labels."""
        failed = f", {self.failures:,} failed" if self.failures else ""
        place = "" if output is None else f", written to {output}"
        self._console.print(f"{self._predictions:,} predicted{failed}{place}")
        self._scores.print(self._console)

    def _contents(self, items: Iterable[Item | Fault]) -> Iterator[Content]:
        from finetune.cli.inputs import Fault

        for item in items:
            if isinstance(item, Fault):
                self._report(item.key, item.reason)
            else:
                self._pending.append(item)
                yield item.content

    def _report(self, key: str, reason: str) -> None:
        self.failures += 1
        self._console.print(f"{key}: {reason}")
