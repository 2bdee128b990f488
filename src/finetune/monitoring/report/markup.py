"""HTML building blocks; all text is escaped unless it is `Html`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from finetune.messages import printable

DASH = "\N{EN DASH}"
_VOID = frozenset({"br", "img", "meta"})


class Html(str):
    """Safe HTML; other text is escaped when it becomes part of an element."""

    __slots__ = ()


def tag(name: str, /, *content: str | None, **attributes: str | int | float | None) -> Html:
    """Build an element; in attribute names a trailing `_` is dropped and other `_` become `-`; `None` is omitted."""
    attribute_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{attribute_text}>" if name in _VOID else f"<{name}{attribute_text}>{join(content)}</{name}>")


def join(content: Iterable[str | None]) -> Html:
    """Concatenate texts and elements."""
    return Html(
        "".join(piece if isinstance(piece, Html) else _escaped(piece) for piece in content if piece is not None)
    )


def _escaped(value: object) -> str:
    """Escape text as HTML; control characters, which may reverse the text direction, are made visible."""
    return html.escape(printable(str(value), "\n\t"))


def section(title: str, *content: str | None, name: str, wide: bool = False, lead: str | None = None) -> Html:
    """Build a card of the page; `name` is its anchor."""
    head = tag("header", tag("h2", title), tag("p", lead) if lead else None)
    return tag("section", head, *content, id=name, class_="card wide" if wide else "card")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, class_: str = "") -> Html:
    """Build a table with row headers in the first column; it scrolls if too wide."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    element = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", element, class_=f"scroll {class_}".strip(), tabindex="0", role="region", aria_label="table")


def facts(pairs: Iterable[tuple[str, str]], *, compact: bool = False) -> Html:
    """Build a list of names and values; `compact` for short values."""
    css_class = "facts small" if compact else "facts"
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_=css_class)


def meter(share: float, text: str) -> Html:
    """Build a number with a bar in the background; the share is in [0, 1]."""
    width = max(0.0, min(1.0, share)) * 100
    return tag("span", tag("span", text), class_="meter", style=f"--w:{width:.1f}%")


def percent(value: object, digits: int = 1) -> str:
    """Format a share in percent; a dash if undefined."""
    return f"{value * 100:.{digits}f}%" if isinstance(value, int | float) else DASH


def number(value: object, digits: int = 3) -> str:
    """Format a number; a dash if undefined."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return DASH
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def pluralize(count: int, singular: str, plural: str | None = None) -> str:
    """Format a count with a noun: `1 record`, `2,000 records`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def is_or_are(count: int) -> str:
    """Return `is` or `are` for a count."""
    return "is" if count == 1 else "are"


def format_count(value: int) -> str:
    """Format a large number with three digits, such as `8.39 M`."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return str(value)


def format_small(value: float) -> str:
    """Format a learning rate or other small number without trailing zeros: `0.003`, `2.5e-4`."""
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
