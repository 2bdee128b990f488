"""SVG charts in the page's colors, readable at the width of a phone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.monitoring.report.markup import Piece, joined, small, tag

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 34
_MOST_POINTS_WITH_DOTS = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A curve with name, x and y values; a y value of `None` leaves a gap."""

    name: str
    places: Sequence[float]
    heights: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Axes:
    """Axis labels, the minimum range of y, and optional x ticks."""

    across: str
    up: str
    contains: tuple[float, ...] = ()
    places: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps values to chart coordinates."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        low, high = self.x
        return LEFT + (value - low) / ((high - low) or 1.0) * (WIDTH - LEFT - RIGHT)

    def up(self, value: float) -> float:
        low, high = self.y
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1.0) * (HEIGHT - TOP - BOTTOM)


def line_chart(lines: Sequence[Line], axes: Axes) -> Piece:
    """Draw curves over a common axis, with a legend; empty without points."""
    heights = [y for line in lines for y in line.heights if y is not None and math.isfinite(y)]
    places = [x for line in lines for x in line.places]
    if not heights:
        return Piece("")
    ticks = nice_ticks(min(*heights, *axes.contains, heights[0]), max(*heights, *axes.contains, heights[0]))
    frame = _Frame((min(places), max(places)), (ticks[0], ticks[-1]))
    shapes = [_grid(frame, ticks, axes)]
    shapes += [_curve(frame, line, index) for index, line in enumerate(lines)]
    label = f"{axes.up} over {axes.across}: {', '.join(line.name for line in lines)}"
    return tag("figure", _svg(shapes, label), legend([line.name for line in lines]))


def reliability(rows: Sequence[Mapping[str, float]]) -> Piece:
    """Draw a reliability diagram: accuracy by confidence bin; the diagonal is perfect calibration."""
    frame = _Frame((0.0, 1.0), (0.0, 1.0))
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    most = max((row["answers"] for row in rows), default=1)
    shapes = [_grid(frame, ticks, Axes("stated probability", "came true", places=tuple(ticks)))]
    for row in rows:
        left, right, top = frame.across(row["from"]), frame.across(row["to"]), frame.up(row["accuracy"])
        said = f"stated {row['confidence']:.0%}, came true {row['accuracy']:.0%}, {row['answers']:,.0f} answers"
        bar = tag(
            "rect",
            tag("title", said),
            x=f"{left + 2:.1f}",
            y=f"{top:.1f}",
            width=f"{right - left - 4:.1f}",
            height=f"{max(1.0, frame.up(0.0) - top):.1f}",
            rx=2,
            class_="bar",
            style=f"--o:{0.3 + 0.7 * math.sqrt(row['answers'] / most):.2f}",
        )
        shapes.append(bar)
    ends = (frame.across(0), frame.up(0), frame.across(1), frame.up(1))
    shapes.append(_stroke(*ends, "diagonal"))
    return tag("figure", _svg(shapes, "reliability diagram"))


def stacked(parts: Mapping[str, float]) -> Piece:
    """Draw shares of a whole as a stacked bar; the adjacent table is its legend."""
    total = sum(parts.values()) or 1.0
    pieces = [
        tag("span", style=f"flex-grow:{value / total:.4f}", class_=f"c{index % 8}", title=f"{name} {value / total:.1%}")
        for index, (name, value) in enumerate(parts.items())
        if value > 0
    ]
    return tag("div", *pieces, class_="stacked", role="img", aria_label="shares of the time")


def legend(names: Sequence[str]) -> Piece:
    """Draw a legend of names with the colors of their curves."""
    items = (tag("li", tag("i", class_=f"c{index % 8}"), name) for index, name in enumerate(names))
    return tag("ul", *items, class_="legend")


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round tick values that span the range."""
    if high - low < 1e-12:
        spread = abs(high) * 0.1 or 1.0
        low, high = low - spread, high + spread
    raw = (high - low) / (count - 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _svg(shapes: Sequence[str], label: str) -> Piece:
    return tag("svg", *shapes, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def _grid(frame: _Frame, ticks: Sequence[float], axes: Axes) -> Piece:
    shapes = []
    for tick in ticks:
        y = frame.up(tick)
        shapes.append(_stroke(LEFT, y, WIDTH - RIGHT, y, "grid"))
        shapes.append(_text(LEFT - 6, y + 4, small(tick), "end"))
    places = axes.places or _places(frame.x)
    shapes += [_text(frame.across(place), HEIGHT - BOTTOM + 16, small(place), "middle") for place in places]
    shapes.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, axes.across, "middle", "axis"))
    return joined(shapes)


def _places(span: tuple[float, float]) -> list[float]:
    low, high = span
    whole = float(low).is_integer() and float(high).is_integer() and high - low >= 1
    if not whole:
        return [low + (high - low) * part / 4 for part in range(5)] if high > low else [low]
    step = max(1, math.ceil((high - low) / 6))
    inner = [low + step * index for index in range(int((high - low) // step) + 1)]
    return (
        inner
        if high - inner[-1] < step / 2 and inner[-1] == high
        else [x for x in inner if high - x >= step / 2] + [high]
    )


def _curve(frame: _Frame, line: Line, index: int) -> Piece:
    points = [
        (frame.across(x), frame.up(y), x, y)
        for x, y in zip(line.places, line.heights, strict=True)
        if y is not None and math.isfinite(y)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    shapes = [tag("polyline", points=path, class_=f"curve s{index % 8}")]
    if len(points) <= _MOST_POINTS_WITH_DOTS:
        shapes += [
            tag("circle", tag("title", f"{line.name}: {small(y)} at {small(x)}"), cx=f"{a:.1f}", cy=f"{b:.1f}", r=2.6,
                class_=f"dot f{index % 8}")
            for a, b, x, y in points
        ]  # fmt: skip
    return joined(shapes)


def _stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> Piece:
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind)


def _text(x: float, y: float, said: str, anchor: str, kind: str = "tick") -> Piece:
    return tag("text", said, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=kind)
