"""Tables written from known records in all common dialects, with one oddity each."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from finetune.job.prepare import PreparedJob
from sagemaker_simulator import Channel, PipeSource
from tests.fuzz.oracle import Reference, Run, Situation
from tests.fuzz.running import decoded_records, production_warnings, read_records, shared_folder
from tests.support.tiny_transformers import write_folder

Record = tuple[str, str]
"""A label and a text."""

LABEL_SETS = (("neg", "pos"), ("bad", "good", "so so"), ("0", "1"), ("1", "2", "3"), ("B", "A", "C"))
_PIECES = (
    "the cat",
    "dog ran",
    "a, b",
    "x; y",
    "it's",
    "up | in",
    "Ä ö",
    "# 5",
    "1.5",
    "e.g. this",
    "50 %",
    "a:b",
    "日本",
)
_HYPERPARAMETERS = ("label_column", "text_column", "header", "delimiter")
TYPES = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".jsonl": "application/jsonlines",
    ".parquet": "application/x-parquet",
}


@dataclass
class Table:
    """Records to be written into the channel `train`.

    Attributes:
        records: records that a reader should find, with the table's labels as class names.
        folder: the channel.
        draw: hypothesis' draw.
        piped: whether the channel is in Pipe mode.
        hyperparameters: of the job.
        other_readings: records that are equally right.
    """

    records: list[tuple[Any, ...]]
    folder: Path
    draw: Callable[[st.SearchStrategy[Any]], Any]
    piped: bool
    hyperparameters: dict[str, str] = field(default_factory=dict)
    content_type: str | None = None
    has_reference: bool = True
    other_readings: list[list[tuple[Any, ...]]] = field(default_factory=list)

    def choose(self, values: Sequence[Any]) -> Any:  # noqa: ANN401 - any type
        """Draw one of some values."""
        return self.draw(st.sampled_from(list(values)))

    def rows(self) -> list[tuple[str, str]]:
        """Labels and texts."""
        return [(label, text) for label, text in self.records]

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the channel; its extension determines the content type in Pipe mode."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if self.content_type is None:
            ending = next((ending for ending in TYPES if ending in name), ".csv")
            self.content_type = TYPES[ending]


def dialect(
    rows: Sequence[Sequence[str]], delimiter: str = ",", quoting: int = csv.QUOTE_MINIMAL, end: str = "\n"
) -> str:
    """Rows as written by the standard library."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue()


Mutation = Callable[[Table], Situation]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Register an oddity."""
    MUTATIONS[function.__name__] = function
    return function


@functools.cache
def model() -> Path:
    """A small text model."""
    folder = shared_folder() / "bert"
    with production_warnings():
        return write_folder(folder, "bert", headless=True)


def new_case(root: Path, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Table:
    """Records with one of several label sets, for File or Pipe mode."""
    labels = draw(st.sampled_from(LABEL_SETS))
    count = draw(st.integers(6, 14)) * len(labels)
    pieces = draw(st.lists(st.sampled_from(_PIECES), min_size=count, max_size=count))
    records = [(labels[at % len(labels)], f"{piece} number {at} away") for at, piece in enumerate(pieces)]
    return Table(records, root / "train", draw, draw(st.booleans()))


def read(table: Table, root: Path) -> Run:
    """Open the channel as a job does; the value is a sorted list of classes and texts."""
    pipe = PipeSource() if table.piped else None
    channels = [
        Channel("train", table.folder, content_type=table.content_type if table.piped else None, pipe=pipe),
        Channel("model", model()),
    ]
    settings = {"strategy": "feature_extraction", "validation_fraction": "0", "epochs": "1", **table.hyperparameters}
    settings = {"task": "text-classification", **settings}
    return read_records(root, channels, settings, _records)


def _records(job: PreparedJob) -> object:
    part, stream = job.inputs.train, job.inputs.streams.get("train")
    decoded = []
    if stream is not None:
        decoded = [
            ([job.inputs.labels.resolve(label) or label for label in record.labels], list(record.content))
            for record in decoded_records(job, stream.source)
        ]
    elif part is not None:
        decoded = [
            (list(record.labels), list(record.content))
            for record in (part.reader.read(index) for index in part.indices)
        ]
    return sorted(decoded)


def reference(table: Table) -> Reference:
    """The records that the table was written from."""
    if not table.has_reference:
        return Reference((), "nothing in it can be read")
    readings = [table.records, *table.other_readings]
    return Reference(tuple(sorted(_record(*record) for record in records) for records in readings))


def _record(label: Any, *texts: str) -> tuple[list[str], list[str]]:  # noqa: ANN401 - one label or several
    return sorted(label) if isinstance(label, list) else [label], list(texts)


# --- Dialects of CSV and TSV -----------------------------------------------------------------------------------------

_USUAL = (("label", "text"), ("Label", "Text"), ("class", "review"), ("sentiment", "comment"), ("labels", "sentence"))
_ODD_NAMES = (
    ("stars", "phrase"),
    ("v1", "v2"),
    ("rating", "remark"),
    ("Kategorie", "Satz"),
    ("is_spam", "mail"),
    ("0", "1"),
    ("score", "x"),
)


@mutation
def usual_names(table: Table) -> Situation:
    names = table.choose(_USUAL)
    turned = table.draw(st.booleans())
    rows = [names, *table.rows()]
    delimiter, name = table.choose(((",", "a.csv"), (";", "a.csv"), ("\t", "a.tsv"), ("\t", "a.csv")))
    quoting = table.choose((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
    end = table.choose(("\n", "\r\n"))
    mark = table.choose(("", "\ufeff"))
    text = mark + dialect([row[::-1] if turned else row for row in rows], delimiter, quoting, end)
    last = table.choose(("", end, end * 2))
    table.write(name, text.rstrip("\r\n") + last)
    return Situation(
        f"columns {names}, turned {turned}, {delimiter!r}, quoting {quoting}, {end!r}, BOM {mark!r}, {name}",
        harmless=True,
    )


@mutation
def usual_names_and_more_columns(table: Table) -> Situation:
    names = table.choose(_USUAL)
    more = table.choose((("id",), ("", "id"), ("Unnamed: 0",), ("date", "author")))
    header = [*more, *names]
    rows = [[*(str(at) for _ in more), *row] for at, row in enumerate(table.rows())]
    order = table.draw(st.permutations(range(len(header))))
    table.write("a.csv", dialect([[row[at] for at in order] for row in (header, *rows)]))
    return Situation(f"columns {[header[at] for at in order]}", (*_HYPERPARAMETERS, "column"), harmless=True)


@mutation
def odd_names(table: Table) -> Situation:
    names = table.choose(_ODD_NAMES)
    turned = table.draw(st.booleans())
    rows = [names, *table.rows()]
    table.write("a.csv", dialect([row[::-1] if turned else row for row in rows]))
    return Situation(
        f"columns {names[::-1] if turned else names} of labels like {table.records[0][0]!r}", _HYPERPARAMETERS
    )


@mutation
def odd_names_with_hyperparameters(table: Table) -> Situation:
    label, text = table.choose(_ODD_NAMES)
    turned = table.draw(st.booleans())
    table.hyperparameters |= {"label_column": label, "text_column": text}
    if label == "0":
        table.hyperparameters["header"] = "true"
    rows = [(label, text), *table.rows()]
    table.write("a.csv", dialect([row[::-1] if turned else row for row in rows]))
    return Situation(f"columns {label}, {text}, told by hyperparameters, turned {turned}", harmless=True)


@mutation
def no_header(table: Table) -> Situation:
    turned = table.draw(st.booleans())
    delimiter, name = table.choose(((",", "a.csv"), (";", "a.csv"), ("\t", "a.tsv")))
    table.write(name, dialect([row[::-1] if turned else row for row in table.rows()], delimiter))
    return Situation(
        f"no header, {'text' if turned else 'label'} first, {delimiter!r}, labels like {table.records[0][0]!r}",
        (*_HYPERPARAMETERS, "column 0"),
    )


@mutation
def no_header_with_hyperparameter(table: Table) -> Situation:
    turned = table.draw(st.booleans())
    table.hyperparameters |= (
        {"header": "false", "label_column": "1", "text_column": "0"} if turned else {"header": "false"}
    )
    table.write("a.csv", dialect([row[::-1] if turned else row for row in table.rows()]))
    return Situation(f"no header, told, {'text' if turned else 'label'} first", harmless=True)


@mutation
def header_with_hyperparameter(table: Table) -> Situation:
    names = table.choose(_USUAL)
    table.hyperparameters["header"] = "true"
    table.write("a.csv", dialect([names, *table.rows()]))
    return Situation(f"columns {names}, header=true", harmless=True)


@mutation
def first_record_looks_like_a_header(table: Table) -> Situation:
    first = table.choose((("neg", "bad"), ("rare", "short")))
    table.other_readings = [list(table.records)]  # pandas treats the first row as a header, too.
    table.records.insert(0, first)
    table.write("a.csv", dialect(table.rows()))
    return Situation(f"no header; the first record is {first}", (*_HYPERPARAMETERS, "first row"))


@mutation
def delimiters_in_texts(table: Table) -> Situation:
    delimiter = table.choose((";", "\t", "|", ","))
    inner = table.choose((",", ";", ", "))
    table.records = [(label, f"word {at}{inner}very{inner}long") for at, (label, _) in enumerate(table.records)]
    header = table.draw(st.booleans())
    rows = [("label", "text")] * header + table.rows()
    table.write("a.csv", dialect(rows, delimiter))
    return Situation(
        f"{delimiter!r} between fields, {inner!r} in every text, {'with' if header else 'no'} header", _HYPERPARAMETERS
    )


@mutation
def unquoted_commas(table: Table) -> Situation:
    table.records = [
        (label, f"word {at}, very" if at % 2 else f"word {at}") for at, (label, _) in enumerate(table.records)
    ]
    table.write("a.csv", "label,text\n" + "".join(f"{label},{text}\n" for label, text in table.rows()))
    if table.draw(st.booleans()):
        table.hyperparameters["max_bad_records"] = "100"
    return Situation("commas in half of the texts, without quotation marks", ("columns", "quot"))


@mutation
def repeated_header(table: Table) -> Situation:
    names = table.choose((*_USUAL, *_ODD_NAMES[:3]))
    half = len(table.records) // 2
    rows = table.rows()
    many = table.draw(st.booleans())
    if many:
        table.write("a.csv", dialect([names, *rows[:half]]))
        table.write("b.csv", dialect([names, *rows[half:]]))
    else:
        table.write("a.csv", dialect([names, *rows[:half], names, *rows[half:]]))
    usual = names in _USUAL
    return Situation(
        f"columns {names}, named again {'in a second file' if many else 'in the middle'}",
        (*_HYPERPARAMETERS, names[0]),
        harmless=many and usual,
    )


@mutation
def line_ends(table: Table) -> Situation:
    name, delimiter = table.choose((("a.csv", ","), ("a.tsv", "\t")))
    end = table.choose(("\r", "\n\r", "\u2028", "\x85", "\r\r\n", "\n\n"))
    table.write(name, dialect([("label", "text"), *table.rows()], delimiter, end=end))
    return Situation(f"lines of {name} that end in {end!r}", ("line", "label_column", "column", "carriage return"))


@mutation
def line_ends_in_texts(table: Table) -> Situation:
    inner = table.choose(("\n", "\n\n", "\u2028", "\x0b", "\x0c", "\x1c", "\x85"))
    table.records = [(label, f"first{inner}second {at}") for at, (label, _) in enumerate(table.records)]
    table.write("a.csv", dialect([("label", "text"), *table.rows()]))
    return Situation(f"{inner!r} in every text", harmless=True)


@mutation
def encodings(table: Table) -> Situation:
    encoding = table.choose(("utf-16", "utf-16-le", "latin-1", "cp1252", "utf-32", "utf-8-sig"))
    table.records = [(label, f"Ärger {at}") for at, (label, _) in enumerate(table.records)]
    table.write("a.csv", dialect([("label", "text"), *table.rows()]).encode(encoding))
    return Situation(f"encoding {encoding}", ("UTF-8", "UTF-16", "UTF-32"), harmless=encoding == "utf-8-sig")


@mutation
def lines_before_the_table(table: Table) -> Situation:
    line = table.choose(("sep=;", "# exported 2024-01-01", "My survey", "My survey,", "#label,text", ""))
    delimiter = ";" if line == "sep=;" else ","
    table.write("a.csv", f"{line}\n{dialect([('label', 'text'), *table.rows()], delimiter)}")
    return Situation(
        f"the line {line!r} before the header", (*_HYPERPARAMETERS, line or "line", "column names"), harmless=not line
    )


@mutation
def fasttext_format(table: Table) -> Situation:
    name = table.choose(("a.csv", "a.txt", "train.ft.txt"))
    table.records = [(label.replace(" ", "-"), text) for label, text in table.rows()]
    table.records = [(label, f"good , {text}") for label, text in table.rows()]
    table.write(name, "".join(f"__label__{label} {text}\n" for label, text in table.rows()))
    table.content_type = "text/csv"
    return Situation(f"lines of fastText in {name}", ("__label__", "fastText", "BlazingText", name, ".txt"))


@mutation
def other_files_called_csv(table: Table) -> Situation:
    content = io.BytesIO()
    variant = table.choose(("zip", "gzip", "Parquet", "JSON Lines", "HTML", "empty", "NUL", "xlsx"))
    csv_text = dialect([("label", "text"), *table.rows()])
    if variant in ("zip", "xlsx"):
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("xl/workbook.xml" if variant == "xlsx" else "a.csv", csv_text)
    table.has_reference = variant == "gzip"
    contents: dict[str, str | bytes] = {
        "zip": content.getvalue(),
        "xlsx": content.getvalue(),
        "gzip": gzip.compress(csv_text.encode()),
        "Parquet": b"PAR1" + bytes(40) + b"PAR1",
        "JSON Lines": "".join(json.dumps({"label": label, "text": text}) + "\n" for label, text in table.rows()),
        "HTML": "<!doctype html>\n<html><body>\n<p>404, not found</p>\n</body></html>\n",
        "empty": "",
        "NUL": csv_text.replace("a", "\0"),
    }
    table.write("a.csv", contents[variant])
    return Situation(
        f"{variant} in a file called a.csv",
        (
            "zip",
            "spreadsheet",
            "gzip",
            "Parquet",
            "JSON",
            "HTML",
            "empty",
            "no rows",
            "NUL",
            "xlsx",
            "{",
            "<",
            *_HYPERPARAMETERS,
        ),
    )


@mutation
def ragged_rows(table: Table) -> Situation:
    rows = [("label", "text"), *table.rows()]
    at = table.draw(st.integers(1, len(rows) - 1))
    rows[at] = table.choose((rows[at][:1], (*rows[at], "more"), ("", *rows[at])))
    if table.draw(st.booleans()):
        table.hyperparameters["max_bad_records"] = "1"
    table.write("a.csv", dialect(rows))
    table.has_reference = False
    return Situation(f"the row {rows[at]} among rows of two columns", ("columns", "column", "a.csv"))


@mutation
def stray_quotes(table: Table) -> Situation:
    name, delimiter = table.choose((("a.csv", ","), ("a.tsv", "\t")))
    table.records = [
        (label, f'5" disk {at}' if at % 3 == 0 else f'"so" {at}') for at, (label, _) in enumerate(table.records)
    ]
    text = "".join(f"{label}{delimiter}{text}\n" for label, text in (("label", "text"), *table.rows()))
    table.write(name, text)
    return Situation(
        f"quotation marks in texts of {name}, not doubled", ("quot", "expected after"), harmless=name == "a.tsv"
    )


# --- Labels ----------------------------------------------------------------------------------------------------------


def _labelled(table: Table, values: Sequence[Any]) -> None:
    table.records = [(values[at % len(values)], text) for at, (_, text) in enumerate(table.records)]


@mutation
def integers_with_fraction(table: Table) -> Situation:
    """A data frame converts all integers to floats if a value is missing."""
    _labelled(table, ("0.0", "1.0", "2.0"))
    table.write("a.csv", dialect([("label", "text"), *table.rows()]))
    _labelled(table, ("0", "1", "2"))
    return Situation("labels 0.0, 1.0 and 2.0", ("0.0", "number"), harmless=True)


@mutation
def missing_labels(table: Table) -> Situation:
    numbers = table.choose((("0", "1"), ("0.0", "1.0"), ("1", "2", "3")))
    missing = table.choose(("", "nan", "NaN", "NA", "null", "None", "<NA>", "N/A", "-nan", "#N/A", "n/a", "NULL"))
    _labelled(table, numbers)
    rows = table.rows()
    holes = set(table.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=3, unique=True)))
    rows = [(missing if at in holes else label, text) for at, (label, text) in enumerate(rows)]
    name = table.choose(("a.csv", "a.tsv", "a.jsonl"))
    if name == "a.jsonl":
        table.write(name, "".join(json.dumps({"label": label, "text": text}) + "\n" for label, text in rows))
    else:
        table.write(name, dialect([("label", "text"), *rows], "," if name == "a.csv" else "\t"))
    table.hyperparameters["max_bad_records"] = "3"
    table.records = [
        (label.removesuffix(".0"), text) for at, (label, text) in enumerate(table.rows()) if at not in holes
    ]
    return Situation(
        f"labels {numbers} and {missing!r} in {len(holes)} rows of {name}", (f"'{missing}'", "missing", "left out")
    )


@mutation
def missing_texts(table: Table) -> Situation:
    rows = table.rows()
    at = table.draw(st.integers(0, len(rows) - 1))
    rows[at] = (rows[at][0], table.choose(("", " ", "\u00a0")))
    table.hyperparameters["max_bad_records"] = table.choose(("0", "1"))
    del table.records[at]
    table.write("a.csv", dialect([("label", "text"), *rows]))
    return Situation("a row without text", ("empty",))


@mutation
def labels_that_look_alike(table: Table) -> Situation:
    values = table.choose(
        (("Pos", "pos", "neg"), ("01", "1", "2"), ("a b", "a  b", "c"), ("yes", "yes.", "no"), ("é", "e\u0301", "f"))
    )
    _labelled(table, values)
    table.write("a.csv", dialect([("label", "text"), *table.rows()]))
    if values[0] == "é":
        _labelled(table, ("é", "é", "f"))
    case = values[0] in ("Pos", "01")
    return Situation(f"labels {values}", (values[0], values[1], "case"), must_warn=case)


@mutation
def boolean_labels(table: Table) -> Situation:
    values = table.choose((("True", "False"), ("true", "false"), ("TRUE", "FALSE"), ("yes", "no"), ("y", "n")))
    _labelled(table, values)
    name = table.choose(("a.csv", "a.jsonl"))
    if name == "a.jsonl" and values[0] == "true":
        lines = [json.dumps({"label": label == "true", "text": text}) for label, text in table.rows()]
        table.write(name, "\n".join(lines))
        table.other_readings = [[(label.title(), text) for label, text in table.rows()]]
    else:
        name = "a.csv"
        table.write(name, dialect([("label", "text"), *table.rows()]))
    return Situation(f"labels {values} in {name}", harmless=True)


@mutation
def several_labels(table: Table) -> Situation:
    separator = table.choose((", ", ",", ";", "/", "|", " | ", " ", "json", "\n"))
    sets = (["neg"], ["all", "neg"], ["pos"], ["all", "pos"], ["all"])
    table.hyperparameters["multi_label"] = "true"
    table.records = [(sets[at % len(sets)], text) for at, (_, text) in enumerate(table.records)]
    rows = [
        (json.dumps(labels) if separator == "json" else separator.join(labels), text) for labels, text in table.records
    ]
    table.write("a.csv", dialect([("label", "text"), *rows]))
    return Situation(
        f"multi_label with {separator!r} between labels",
        ("separator", "'|'", "|"),
        harmless=separator in ("|", "json", " | "),
    )


# --- Other formats ---------------------------------------------------------------------------------------------------


@mutation
def json_lines(table: Table) -> Situation:
    names = table.choose(_USUAL)
    end = table.choose(("\n", "\r\n"))
    number = table.draw(st.booleans()) and table.records[0][0].isdecimal()
    rows = [
        {names[0]: int(label) if number else label, names[1]: text, "id": at}
        for at, (label, text) in enumerate(table.rows())
    ]
    lines = [json.dumps(row, ensure_ascii=table.draw(st.booleans())) for row in rows]
    mark = table.choose(("", "\ufeff"))
    table.write(table.choose(("a.jsonl", "a.json")), mark + end.join(lines) + table.choose(("", end)))
    table.content_type = TYPES[".jsonl"]
    return Situation(f"JSON Lines with {names}, {end!r}", harmless=True)


@mutation
def json_list(table: Table) -> Situation:
    rows = [{"label": label, "text": text} for label, text in table.rows()]
    file_format = table.choose(("list", "indented", "data", "columns", "index"))
    content: str = {
        "list": json.dumps(rows),
        "indented": json.dumps(rows, indent=2),
        "data": json.dumps({"data": rows}),
        "columns": json.dumps({"label": [row["label"] for row in rows], "text": [row["text"] for row in rows]}),
        "index": json.dumps({str(at): row for at, row in enumerate(rows)}),
    }[file_format]
    table.write(table.choose(("a.json", "a.jsonl")), content)
    table.content_type = TYPES[".jsonl"]
    return Situation(f"one JSON {file_format} of all records", ("list", "object per line", "lines=True", "one object"))


@mutation
def odd_json_lines(table: Table) -> Situation:
    kind = table.choose(
        ("NaN", "null", "list", "object", "deep", "half a surrogate", "cut", "duplicate key", "float", "nested")
    )
    lines = [json.dumps({"label": label, "text": text}) for label, text in table.rows()]
    odd = {
        "NaN": '{"label": NaN, "text": "x"}',
        "null": '{"label": null, "text": "x"}',
        "list": '["neg", "x"]',
        "object": '{"label": {"a": 1}, "text": "x"}',
        "deep": '{"label": "neg", "text": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "half a surrogate": '{"label": "neg", "text": "\\ud800"}',
        "cut": '{"label": "neg", "te',
        "duplicate key": '{"label": "neg", "label": "pos", "text": "x"}',
        "float": '{"label": 0.5, "text": "x"}',
        "nested": '{"label": "neg", "text": {"en": "x"}}',
    }[kind]
    at = table.draw(st.integers(0, len(lines)))
    lines.insert(at, odd)
    limit = table.choose(("0", "1"))
    table.hyperparameters["max_bad_records"] = limit
    table.write("a.jsonl", "\n".join(lines))
    if kind in ("duplicate key", "float"):
        table.records.append(("pos" if kind == "duplicate key" else "0.5", "x"))
    elif kind == "cut" and table.piped:
        table.has_reference = False
    return Situation(
        f"a line of JSON with {kind}, max_bad_records={limit}", ("a.jsonl", "record", "JSON", f":{at + 1}", "label")
    )


@mutation
def parquet(table: Table) -> Situation:
    import pyarrow
    import pyarrow.parquet

    kind = table.choose(("text", "int64", "float", "bool", "dictionary", "large", "binary", "timestamp", "nulls"))
    labels = [label for label, _ in table.rows()]
    numbers = [sorted(set(labels)).index(label) for label in labels]
    values: Any = {
        "text": labels,
        "int64": numbers,
        "float": [float(number) for number in numbers],
        "bool": [number > 0 for number in numbers],
        "dictionary": pyarrow.array(labels).dictionary_encode(),
        "large": pyarrow.array(labels, pyarrow.large_string()),
        "binary": [label.encode() for label in labels],
        "timestamp": pyarrow.array(numbers, pyarrow.timestamp("s")),
        "nulls": [None if at == 1 else number for at, number in enumerate(numbers)],
    }[kind]
    file = io.BytesIO()
    frame = pyarrow.table({"text": [text for _, text in table.rows()], "label": values})
    pyarrow.parquet.write_table(frame, file)
    expected: dict[str, list[Any]] = {
        "int64": numbers,
        "float": numbers,
        "bool": ["true" if n else "false" for n in numbers],
        "nulls": numbers,
    }
    table.records = [
        (str(label), text) for label, (_, text) in zip(expected.get(kind, labels), table.rows(), strict=True)
    ]
    if kind == "bool":
        table.other_readings = [[(label.title(), text) for label, text in table.rows()]]
    if kind == "nulls":
        del table.records[1]
        table.hyperparameters["max_bad_records"] = "1"
    if kind in ("binary", "timestamp"):
        table.has_reference = False
    table.write("a.parquet", file.getvalue())
    return Situation(
        f"Parquet with labels as {kind}",
        ("label", "missing", "Pipe mode", "parquet"),
        harmless=kind in ("text", "int64", "bool") and not table.piped,
    )


@mutation
def images_in_parquet(table: Table) -> Situation:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    images = [{"bytes": b"\x89PNG", "path": f"{at}.png"} for at in range(len(table.records))]
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": [label for label, _ in table.rows()]}), file)
    table.has_reference, table.piped = False, False
    table.write("train-00000-of-00001.parquet", file.getvalue())
    return Situation("images in Parquet", ("image", "picture"))


@mutation
def compressed(table: Table) -> Situation:
    name = table.choose(("a.csv.gz", "a.jsonl.gz"))
    rows = table.rows()
    text = (
        dialect([("label", "text"), *rows])
        if "csv" in name
        else "\n".join(json.dumps({"label": a, "text": b}) for a, b in rows)
    )
    table.write(name, gzip.compress(text.encode()))
    return Situation(f"{name}", harmless=True)


@mutation
def several_file_types(table: Table) -> Situation:
    half = len(table.records) // 2
    rows = table.rows()
    table.piped = False
    kind = table.choose(("turned", "json", "no header", "names", "tsv"))
    table.write("a.csv", dialect([("label", "text"), *rows[:half]]))
    if kind == "turned":
        table.write("b.csv", dialect([("text", "label"), *(row[::-1] for row in rows[half:])]))
    elif kind == "json":
        table.write("b.jsonl", "\n".join(json.dumps({"label": a, "text": b}) for a, b in rows[half:]))
    elif kind == "no header":
        table.write("b.csv", dialect(rows[half:]))
    elif kind == "names":
        table.write("b.csv", dialect([("stars", "phrase"), *rows[half:]]))
    else:
        table.write("b.tsv", dialect([("label", "text"), *rows[half:]], "\t"))
    return Situation(
        f"two files: the second {kind}", (*_HYPERPARAMETERS, "column"), harmless=kind in ("turned", "json", "tsv")
    )


@mutation
def without_ending(table: Table) -> Situation:
    name = table.choose(("train", "part-00000", "train.txt", "data.dat", "a.CSV", "train.csv.bak", "a.xls"))
    table.write(name, dialect([("label", "text"), *table.rows()]))
    table.content_type = "text/csv"
    return Situation(f"a file called {name}", (name, "ending", ".bak", ".txt", ".xls", "content type"))
