"""Writes predictions as CSV or JSON Lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from finetune.monitoring.spreadsheets import plain_cell


class ResultWriter:
    """Writes one row or line per input.

    CSV has the columns `input`, `label`, `predicted_label` and the probabilities, like the predictions of a job; a name
    that a spreadsheet would read as a formula is escaped. A JSON object has `input`, `label` if it is known, and the
    fields of the server's responses.

    Args:
        file: text file, opened without newline translation.
        format_name: `csv` or `jsonl`.
        labels: classes of the model.
        top_k: number of classes in the results; `None` for all.
    """

    def __init__(self, file: TextIO, format_name: str, labels: Sequence[str], top_k: int | None) -> None:
        self._file = file
        self._table = csv.writer(file, lineterminator="\n") if format_name == "csv" else None
        self._has_ranks = top_k is not None
        columns = [f"probability:{name}" for name in labels]
        if top_k is not None:
            ranks = range(1, min(top_k, len(labels)) + 1)
            columns = [f"{column}:top_{rank}" for rank in ranks for column in ("label", "probability")]
        if self._table is not None:
            self._table.writerow(["input", "label", "predicted_label", *columns])

    def write(self, key: str, labels: tuple[str, ...] | None, record: Mapping[str, Any]) -> None:
        """Write the prediction for an input.

        Args:
            key: name of the input.
            labels: its labels, if they are known.
            record: JSON object of the handler.
        """
        key = key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # names of files may be any bytes
        if self._table is None:
            is_multi_label = "predicted_labels" in record
            label = {} if labels is None else {"label": list(labels) if is_multi_label else "".join(labels)}
            self._file.write(json.dumps({"input": key, **label, **record}, ensure_ascii=False) + "\n")
            return
        predicted = record.get("predicted_labels", [record.get("predicted_label") or ""])
        cells = [plain_cell(text) for text in (key, "|".join(labels or ()), "|".join(predicted))]
        for name, value in zip(record["labels"], record["probabilities"], strict=True):
            cells += [plain_cell(name)] if self._has_ranks else []
            cells.append(f"{value:.6f}")
        self._table.writerow(cells)
