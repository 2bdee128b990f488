r"""Makes text that may come from users' data safe for the log, the failure file and the report.

Names of files, classes and hyperparameters reach messages as they are. They may hold control characters, which move the
cursor of a terminal or begin a new line, and text such as `validation:accuracy=0.99;`, which the platform would take
for a metric. Both are escaped here and nowhere else: characters as Python writes them (`\n`, `\x1b`, `\u2028`), and the
equals sign of a look-alike as `\x3d`. Metric lines alone may hold `name=number;`.
"""

from __future__ import annotations

import logging
import re

OWN_LOGGER = "finetune"

_METRIC = re.compile(r"((?:train|validation|test)\s*:[\w.@-]*\s*)=(?=\s*[-+.\d])")
_NUMBER = re.compile(r"(=\s*[-+.\d][-+.\w]*);")
# Printable for scripts and emoji that need them, although `str.isprintable` says otherwise.
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}\N{NO-BREAK SPACE}"
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Lines(str):
    """Text of several lines whose parts from elsewhere are escaped already; its line ends stay."""

    __slots__ = ()


class MetricLine(str):
    """A line of metrics, made of names of our own and numbers; logged as it is."""

    __slots__ = ()


def printable(text: str, keep: str = "") -> str:
    """Escape characters that are not printable, but for those of `keep`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep or one in _JOINERS else _escape(one) for one in text)


def one_line(text: str) -> str:
    """Escape what is not printable, line ends included, and look-alikes of metrics."""
    return _without_metrics(printable(text))


def several_lines(text: str) -> str:
    """Escape what is not printable, but for line ends and tabs, and look-alikes of metrics."""
    return _without_metrics(printable(text, "\n\t"))


class SafeRecord(logging.LogRecord):
    """A log record whose message is safe, whichever library logs it; see `logging.setLogRecordFactory`."""

    def getMessage(self) -> str:  # noqa: N802 - the name of the standard library
        """The message; of our own ones, only the templates and `Lines` may hold line ends."""
        args = self.args
        if isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], MetricLine):
            return super().getMessage()
        if self.name.split(".", 1)[0] != OWN_LOGGER or not isinstance(args, tuple):
            return several_lines(super().getMessage())
        return several_lines(str(self.msg) % tuple(map(_safe, args)) if args else str(self.msg))


def log_safely() -> None:
    """Let every record that is logged in this process from now on be a `SafeRecord`."""
    logging.setLogRecordFactory(SafeRecord)


class _Argument:
    """An argument of a log message, escaped when it is formatted by `%s`."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return one_line(str(self._value))

    def __repr__(self) -> str:
        return one_line(repr(self._value))


def _safe(value: object) -> object:
    is_number = hasattr(value, "__float__") or hasattr(value, "__index__")  # which `%d` must be given as it is
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
