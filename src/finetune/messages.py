r"""Makes text from users' data safe for the log, the failure file and the report.

Messages include names of files, classes and hyperparameters unchanged. They may contain control characters, which move
the cursor of a terminal or start a new line, and text such as `validation:accuracy=0.99;`, which the platform would
read as a metric. Only this module escapes them: characters in Python notation (`\n`, `\x1b`, `\u2028`), and the equals
sign of a metric look-alike as `\x3d`. Only metric lines may contain a metric such as `loss=0.1;`.
"""

from __future__ import annotations

import logging
import re

OWN_LOGGER = "finetune"

_METRIC = re.compile(r"((?:train|validation|test)\s*:[\w.@-]*\s*)=(?=\s*[-+.\d])")
# Regular expressions of other tools leave out the part before the colon; other names, as in advice, stay readable.
_NUMBER = re.compile(r"((?:loss|accuracy|f1|precision|recall|auc|error)\s*=\s*[-+.\d][-+.\w]*);")
# Needed by some scripts and emoji, although `str.isprintable` returns False.
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}\N{NO-BREAK SPACE}"
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Lines(str):
    """Text of several lines with external parts already escaped; its line ends are kept."""

    __slots__ = ()


class MetricLine(str):
    """A line of metrics, made of fixed names and numbers; logged unchanged."""

    __slots__ = ()


def printable(text: str, keep: str = "") -> str:
    """Escape characters that are not printable, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep or character in _JOINERS else _escape(character)
        for character in text
    )


def one_line(text: str) -> str:
    """Escape unprintable characters, including line ends, and metric look-alikes."""
    return _without_metrics(printable(text))


def several_lines(text: str) -> str:
    """Escape unprintable characters, except line ends and tabs, and metric look-alikes."""
    return _without_metrics(printable(text, "\n\t"))


class SafeRecord(logging.LogRecord):
    """A log record with a safe message, whichever library logs it; see `logging.setLogRecordFactory`."""

    def getMessage(self) -> str:  # noqa: N802 - name from the standard library
        """The escaped message; in those of this package, only templates and `Lines` may contain line ends."""
        args = self.args
        if isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], MetricLine):
            return super().getMessage()
        if self.name.split(".", 1)[0] != OWN_LOGGER or not isinstance(args, tuple):
            return several_lines(super().getMessage())
        return several_lines(str(self.msg) % tuple(map(_safe, args)) if args else str(self.msg))


def log_safely() -> None:
    """Make `SafeRecord` the record class of all logging in this process."""
    logging.setLogRecordFactory(SafeRecord)


class _Argument:
    """A log message argument that is escaped when formatted by `%s`."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return one_line(str(self._value))

    def __repr__(self) -> str:
        return one_line(repr(self._value))


def _safe(value: object) -> object:
    is_number = hasattr(value, "__float__") or hasattr(value, "__index__")  # `%d` needs the number itself
    return value if is_number or isinstance(value, Lines | MetricLine) else _Argument(value)


def _without_metrics(text: str) -> str:
    if "=" not in text:
        return text
    return _NUMBER.sub(r"\1 ;", _METRIC.sub(r"\1\\x3d", text))


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
