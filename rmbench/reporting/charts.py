"""Small SVG charts in the colours of the page, so that they follow its light and dark theme. Text is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 640
ROW_HEIGHT = 24
LETTER_WIDTH = 6.6  # of the page's font at the charts' size


@dataclass(frozen=True)
class Bar:
    """One row of a forest chart: a value with its interval; `series` picks the colour."""

    label: str
    value: float
    low: float
    high: float
    series: int = 0
    text: str = ""


@dataclass(frozen=True)
class Line:
    """One series of a line chart; `low` and `high` are a band around `y`."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    series: int = 0


def forest(bars: Sequence[Bar], title: str, unit: str, zero: bool = True) -> str:
    """Values with intervals, one row each.

    Args:
        bars: from top to bottom.
        title: read out and shown as a tooltip.
        unit: of the axis.
        zero: with a line at zero.
    """
    left = min(290.0, max(len(bar.label) for bar in bars) * LETTER_WIDTH + 12)
    right = max(len(bar.text) for bar in bars) * LETTER_WIDTH + 16
    ends = [end for bar in bars for end in (bar.low, bar.high, bar.value)] + [0.0] * zero
    axis = Axis(min(ends), max(ends), left, WIDTH - right)
    height = 30 + ROW_HEIGHT * len(bars) + 34
    parts = [_grid(axis, 14, height - 40)]
    if zero:
        parts.append(f'<line class="zero" x1="{axis(0):.1f}" x2="{axis(0):.1f}" y1="14" y2="{height - 40}"/>')
    for i, bar in enumerate(bars):
        y = 30 + ROW_HEIGHT * i
        label = _shortened(bar.label, int(left / LETTER_WIDTH) - 1)
        parts.append(f'<text x="{left - 10:.0f}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        parts.append(
            f'<g class="s{bar.series % 6}"><line class="bar" x1="{axis(bar.low):.1f}" x2="{axis(bar.high):.1f}" '
            f'y1="{y}" y2="{y}"/><circle cx="{axis(bar.value):.1f}" cy="{y}" r="4.5"/></g>'
        )
        parts.append(f'<text class="quiet" x="{WIDTH - right + 10:.0f}" y="{y + 4}">{escape(bar.text)}</text>')
    parts += _ticks(axis, height - 24)
    parts.append(
        f'<text class="quiet" x="{(axis.left + axis.right) / 2:.0f}" y="{height - 6}" text-anchor="middle">'
        f"{escape(unit)}</text>"
    )
    return _svg(height, title, parts)


def lines(series: Sequence[Line], title: str, x_label: str, y_label: str) -> str:
    """Lines with bands and a legend below.

    Args:
        series: one line with its band each.
        title: read out and shown as a tooltip.
        x_label: of the axis.
        y_label: of the axis.
    """
    xs = [x for s in series for x in s.x]
    ys = [y for s in series for values in (s.y, s.low, s.high) for y in values]
    x_axis = Axis(min(xs), max(xs), 52, WIDTH - 12)
    bottom, top = 232, 16
    y_axis = Axis(min(ys), max(ys), bottom, top)
    rows = _legend_rows([s.label for s in series])
    height = bottom + 44 + 20 * len(rows)
    parts = []
    for tick in y_axis.ticks():
        y = y_axis(tick)
        parts.append(f'<line class="grid" x1="{x_axis.left}" x2="{x_axis.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="quiet" x="46" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for s in series:
        band = [*zip(s.x, s.high, strict=True), *reversed(list(zip(s.x, s.low, strict=True)))]
        parts.append(f'<g class="s{s.series % 6}"><polygon class="band" points="{_points(band, x_axis, y_axis)}"/>')
        pairs = list(zip(s.x, s.y, strict=True))
        parts.append(f'<polyline class="line" points="{_points(pairs, x_axis, y_axis)}"/>')
        if len(pairs) <= 12:
            parts += [f'<circle cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="3"/>' for x, y in pairs]
        parts.append("</g>")
    parts += _ticks(x_axis, bottom + 18)
    parts.append(f'<text class="quiet" x="{WIDTH / 2}" y="{bottom + 36}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text class="quiet" x="{x_axis.left}" y="10">{escape(y_label)}</text>')
    place = 0
    for r, row in enumerate(rows):
        x = 52.0
        for label in row:
            y = bottom + 56 + 20 * r
            parts.append(f'<g class="s{series[place].series % 6}"><circle cx="{x:.0f}" cy="{y - 4}" r="4.5"/></g>')
            parts.append(f'<text x="{x + 10:.0f}" y="{y}">{escape(label)}</text>')
            x += len(label) * LETTER_WIDTH + 36
            place += 1
    return _svg(height, title, parts)


class Axis:
    """Numbers -> places between `left` and `right`, with room at both ends and round ticks.

    Args:
        low, high: the smallest and the largest number.
        left, right: the places of both ends, in the units of the drawing.
    """

    def __init__(self, low: float, high: float, left: float, right: float) -> None:
        room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
        self.low, self.high = low - room, high + room
        self.left, self.right = left, right

    def __call__(self, value: float) -> float:
        """Where a number is."""
        share = (value - self.low) / (self.high - self.low)
        return self.left + share * (self.right - self.left)

    def ticks(self) -> list[float]:
        """Three to seven round numbers.

        >>> Axis(0, 1, 0, 100).ticks()
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first = math.ceil(self.low / step)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step) + 1)]


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _grid(axis: Axis, top: float, bottom: float) -> str:
    return "".join(
        f'<line class="grid" x1="{axis(t):.1f}" x2="{axis(t):.1f}" y1="{top}" y2="{bottom}"/>' for t in axis.ticks()
    )


def _ticks(axis: Axis, y: float) -> list[str]:
    return [
        f'<text class="quiet" x="{axis(t):.1f}" y="{y}" text-anchor="middle">{_number(t)}</text>' for t in axis.ticks()
    ]


def _points(pairs: Sequence[tuple[float, float]], x_axis: Axis, y_axis: Axis) -> str:
    return " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in pairs)


def _legend_rows(labels: Sequence[str]) -> list[list[str]]:
    rows: list[list[str]] = [[]]
    used = 52.0
    for label in labels:
        width = len(label) * LETTER_WIDTH + 36
        if rows[-1] and used + width > WIDTH:
            rows.append([])
            used = 52.0
        rows[-1].append(label)
        used += width
    return rows


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _shortened(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"
