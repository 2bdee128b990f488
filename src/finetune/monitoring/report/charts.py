"""SVG charts in the page's colors, readable at the width of a phone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.monitoring.report.markup import Html, format_small, join, tag

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 34
_MAX_DOTS = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A curve with name, x and y values; a y value of `None` leaves a gap."""

    name: str
    x_values: Sequence[float]
    y_values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Axes:
    """Axis labels, the minimum range of y, and optional x ticks."""

    x_label: str
    y_label: str
    include_y: tuple[float, ...] = ()
    x_ticks: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps values to chart coordinates."""

    x: tuple[float, float]
    y: tuple[float, float]

    def to_x(self, value: float) -> float:
        low, high = self.x
        return LEFT + (value - low) / ((high - low) or 1.0) * (WIDTH - LEFT - RIGHT)

    def to_y(self, value: float) -> float:
        low, high = self.y
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1.0) * (HEIGHT - TOP - BOTTOM)


def line_chart(lines: Sequence[Line], axes: Axes) -> Html:
    """Draw curves over a common axis, with a legend; empty without points."""
    y_values = [y for line in lines for y in line.y_values if y is not None and math.isfinite(y)]
    x_values = [x for line in lines for x in line.x_values]
    if not y_values:
        return Html("")
    ticks = nice_ticks(min(*y_values, *axes.include_y, y_values[0]), max(*y_values, *axes.include_y, y_values[0]))
    frame = _Frame((min(x_values), max(x_values)), (ticks[0], ticks[-1]))
    shapes = [_grid(frame, ticks, axes)]
    shapes += [_curve(frame, line, index) for index, line in enumerate(lines)]
    label = f"{axes.y_label} over {axes.x_label}: {', '.join(line.name for line in lines)}"
    return tag("figure", _svg(shapes, label), legend([line.name for line in lines]))


def reliability_diagram(rows: Sequence[Mapping[str, float]]) -> Html:
    """Draw a reliability diagram: accuracy by confidence bin; the diagonal is perfect calibration."""
    frame = _Frame((0.0, 1.0), (0.0, 1.0))
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    max_count = max((row["answers"] for row in rows), default=1)
    shapes = [_grid(frame, ticks, Axes("predicted probability", "accuracy", x_ticks=tuple(ticks)))]
    for row in rows:
        left, right, top = frame.to_x(row["from"]), frame.to_x(row["to"]), frame.to_y(row["accuracy"])
        text = f"predicted {row['confidence']:.0%}, correct {row['accuracy']:.0%}, {row['answers']:,.0f} predictions"
        bar = tag(
            "rect",
            tag("title", text),
            x=f"{left + 2:.1f}",
            y=f"{top:.1f}",
            width=f"{right - left - 4:.1f}",
            height=f"{max(1.0, frame.to_y(0.0) - top):.1f}",
            rx=2,
            class_="bar",
            style=f"--o:{0.3 + 0.7 * math.sqrt(row['answers'] / max_count):.2f}",
        )
        shapes.append(bar)
    ends = (frame.to_x(0), frame.to_y(0), frame.to_x(1), frame.to_y(1))
    shapes.append(_stroke(*ends, "diagonal"))
    return tag("figure", _svg(shapes, "reliability diagram"))


def stacked_bar(parts: Mapping[str, float]) -> Html:
    """Draw shares of a whole as a stacked bar; the adjacent table is its legend."""
    total = sum(parts.values()) or 1.0
    segments = [
        tag("span", style=f"flex-grow:{value / total:.4f}", class_=f"c{index % 8}", title=f"{name} {value / total:.1%}")
        for index, (name, value) in enumerate(parts.items())
        if value > 0
    ]
    return tag("div", *segments, class_="stacked", role="img", aria_label="share of time by part")


def legend(names: Sequence[str]) -> Html:
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


def _svg(shapes: Sequence[str], label: str) -> Html:
    return tag("svg", *shapes, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def _grid(frame: _Frame, ticks: Sequence[float], axes: Axes) -> Html:
    shapes = []
    for tick in ticks:
        y = frame.to_y(tick)
        shapes.append(_stroke(LEFT, y, WIDTH - RIGHT, y, "grid"))
        shapes.append(_text(LEFT - 6, y + 4, format_small(tick), "end"))
    x_ticks = axes.x_ticks or _x_ticks(frame.x)
    shapes += [_text(frame.to_x(value), HEIGHT - BOTTOM + 16, format_small(value), "middle") for value in x_ticks]
    shapes.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, axes.x_label, "middle", "axis"))
    return join(shapes)


def _x_ticks(span: tuple[float, float]) -> list[float]:
    low, high = span
    is_integral = float(low).is_integer() and float(high).is_integer() and high - low >= 1
    if not is_integral:
        return [low + (high - low) * part / 4 for part in range(5)] if high > low else [low]
    step = max(1, math.ceil((high - low) / 6))
    ticks = [low + step * index for index in range(int((high - low) // step) + 1)]
    return (
        ticks
        if high - ticks[-1] < step / 2 and ticks[-1] == high
        else [x for x in ticks if high - x >= step / 2] + [high]
    )


def _curve(frame: _Frame, line: Line, index: int) -> Html:
    points = [
        (frame.to_x(x), frame.to_y(y), x, y)
        for x, y in zip(line.x_values, line.y_values, strict=True)
        if y is not None and math.isfinite(y)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    shapes = [tag("polyline", points=path, class_=f"curve s{index % 8}")]
    if len(points) <= _MAX_DOTS:
        shapes += [
            tag(
                "circle",
                tag("title", f"{line.name}: {format_small(y)} at {format_small(x)}"),
                cx=f"{chart_x:.1f}",
                cy=f"{chart_y:.1f}",
                r=2.6,
                class_=f"dot f{index % 8}",
            )
            for chart_x, chart_y, x, y in points
        ]
    return join(shapes)


def _stroke(x1: float, y1: float, x2: float, y2: float, css_class: str) -> Html:
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=css_class)


def _text(x: float, y: float, text: str, anchor: str, css_class: str = "tick") -> Html:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=css_class)
