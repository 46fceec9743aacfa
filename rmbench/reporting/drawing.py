"""The forms of a report's figures: forest, curves, fifths of the pairs, gradient against distance side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from rmbench.diagnostics.figures import DISTANCE, ERROR, gradient_panel, panel_title, top_of
from rmbench.plotting import QUIET, ending, in_bins, line_style, plain, point_style, show_bins, smoothed

SHOWN_PAIRS = 600  # of a panel, evenly spread over the training
COLUMNS = 3  # of panels


@dataclass(frozen=True)
class Bar:
    """One row of a forest plot: a value with its interval and a text; `series` selects colour and marker."""

    label: str
    value: float
    low: float
    high: float
    series: int = 0
    text: str = ""


@dataclass(frozen=True)
class Line:
    """One curve `y` over `x`; `low` and `high` are a band around it, `series` selects colour and dashes."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    series: int = 0

    def smooth(self) -> Line:
        """The curve and its band, smoothed by a centred Gaussian mean."""
        return replace(self, **{name: smoothed(getattr(self, name)).tolist() for name in ("y", "low", "high")})


@dataclass(frozen=True)
class Panel:
    """The recorded pairs of one run, `(pairs,)` each, and the rank correlation of norm with distance at equal error."""

    label: str
    distance: np.ndarray
    norm: np.ndarray
    error: np.ndarray
    inside: float


def forest(bars: Sequence[Bar], unit: str) -> Figure:
    """A forest plot: values with intervals, one row each, and a line at zero."""
    figure = Figure(figsize=(6.6, 0.9 + 0.27 * len(bars)), layout="constrained")
    ax = figure.subplots()
    for row, bar in enumerate(bars):
        ends = [[max(bar.value - bar.low, 0)], [max(bar.high - bar.value, 0)]]
        style = point_style(bar.series)
        ax.errorbar([bar.value], [row], xerr=ends, linestyle="none", linewidth=1.4, capsize=2, **style)
    ax.axvline(0, color=QUIET, linewidth=0.8, linestyle="--", zorder=0)
    ax.set_yticks(range(len(bars)), [plain(ending(bar.label)) for bar in bars])
    ax.set_ylim(len(bars) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    words = ax.secondary_yaxis("right")
    words.set_yticks(range(len(bars)), [bar.text for bar in bars])
    words.tick_params(length=0, labelcolor=QUIET)
    words.spines["right"].set_visible(False)
    ax.set_xlabel(plain(unit))
    return figure


def lines(series: Sequence[Line], y_label: str) -> Figure:
    """A plot of curves over the training steps, with bands and a legend below."""
    figure = Figure(figsize=(4.4, 2.7 + 0.2 * len(series)), layout="constrained")
    ax = figure.subplots()
    few = max(len(line.x) for line in series) <= 12
    for line in series:
        style = line_style(line.series) | (point_style(line.series) if few else {})
        ax.plot(line.x, line.y, label=plain(ending(line.label)), **style)
        if list(line.low) != list(line.high):
            ax.fill_between(line.x, line.low, line.high, color=style["color"], alpha=0.16, linewidth=0)
    ax.set_xlabel("step")
    ax.set_title(y_label, loc="left")
    figure.legend(loc="outside lower left", handlelength=4)
    return figure


def fifths(series: Sequence[Line], names: Sequence[str]) -> Figure:
    """A plot of a value with its range, for each series in each bin."""
    figure = Figure(figsize=(4.4, 2.7 + 0.2 * len(series)), layout="constrained")
    ax = figure.subplots()
    apart = min(0.2, 0.8 / len(series))
    for i, line in enumerate(series):
        offset = apart * (i - (len(series) - 1) / 2)
        found = list(zip(line.y, line.low, line.high, strict=True))
        in_bins(ax, found, line.series, offset, plain(ending(line.label)))
    show_bins([ax], names)
    ax.set_title("accuracy", loc="left")
    ax.set_xlabel("fifth of the pairs by distance")
    figure.legend(loc="outside lower left")
    return figure


def gradients(panels: Sequence[Panel], part: str) -> Figure:
    """Scatter plots of gradient norm against distance, coloured by prediction error: one panel per run, one scale."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(1.0 + 2.8 * columns, 0.3 + 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    limit = top_of([panel.norm for panel in panels])
    for ax, panel in zip(axes.flat, panels, strict=False):
        n = len(panel.distance)
        evenly = np.linspace(0, n - 1, min(n, SHOWN_PAIRS)).astype(int)
        shown = np.union1d(evenly, np.flatnonzero(panel.norm > limit))  # all that are cut are counted
        gradient_panel(ax, panel.distance[shown], panel.norm[shown], panel.error[shown], limit)
        panel_title(ax, plain(ending(panel.label, 34)), panel.inside)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for column in range(columns):
        last = max(row for row in range(rows) if row * columns + column < len(panels))
        axes[last, column].set_xlabel(DISTANCE)
        axes[last, column].tick_params(labelbottom=True)
    for row in axes[:, 0]:
        row.set_ylabel(f"gradient norm of the pair, {part}")
    figure.colorbar(axes[0, 0].collections[0], ax=axes, label=ERROR, pad=0.01, aspect=30)
    return figure
