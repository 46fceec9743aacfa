"""Figures of what a run recorded: gradient norm against distance, distance by section, how these change in training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmbench import plotting
from rmbench.diagnostics.equal_error import correlation_by_step, correlation_of_steps
from rmbench.diagnostics.study import Columns
from rmbench.files import Json
from rmbench.plotting import (
    ERROR_COLOURS,
    FEWEST_SMOOTHED,
    QUIET,
    cut,
    line_style,
    plain,
    point_style,
    shortened,
    smoothed,
)

SHOWN_PAIRS = 4000
MINUS = "\N{MINUS SIGN}"  # as the ticks have it
DISTANCE = r"distance $\|h_w - h_l\|$"
ERROR = r"prediction error $\sigma(-\mathrm{margin})$"


def write_diagnostics(table: pa.Table, folder: Path, history: Sequence[Json], name: str) -> dict[str, Path]:
    """Draw what a run recorded into `folder`, as PNG, PDF and SVG; figure -> PNG.

    The gradient figure is left out where no gradient norm was recorded, the dynamics where fewer than two steps were.

    Args:
        table: pairs.parquet.
        folder: where the figures go.
        history: the rows of history.jsonl.
        name: what the run is called in the titles.
    """
    columns = {key: table[key].to_numpy(zero_copy_only=False) for key in table.column_names}
    figures = {"section_distance": partial(distance_by_section, columns, name)}
    if not np.isnan(columns["head_gradient_norm"].astype(float)).all():
        figures["gradient_distance"] = partial(gradient_against_distance, columns, name)
    if len([row for row in history if "train/mean_weight" in row]) > 1:
        figures["dynamics"] = partial(dynamics, columns, history, name)
    return {key: plotting.save(draw, folder / f"{key}.png") for key, draw in figures.items()}


def gradient_against_distance(columns: Columns, name: str) -> Figure:
    """Head gradient norm against distance, coloured by prediction error: before weighting (BT) and as trained.

    Before weighting the norm is prediction error x distance (arXiv 2512.06343); the weights are divided out. A run
    whose two panels would be the same has one.
    """
    distance, error, norm = (
        columns[key].astype(float) for key in ("distance", "prediction_error", "head_gradient_norm")
    )
    panels = {"before weighting": error * distance, "as trained": norm}
    if np.allclose(norm, error * distance, rtol=1e-3, atol=1e-6, equal_nan=True):
        del panels["before weighting"]
    figure = Figure(figsize=(0.8 + 2.9 * len(panels), 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    limit = top_of(panels.values())
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        inside = correlation_of_steps({**columns, "shown": values}, "shown")
        gradient_panel(ax, distance, values, error, limit)
        panel_title(ax, title, inside)
        ax.set_xlabel(DISTANCE)
    axes[0].set_ylabel("head gradient norm of the pair")
    figure.colorbar(axes[0].collections[0], ax=list(axes), label=ERROR, pad=0.01, aspect=30)
    steps = len(np.unique(columns["step"]))
    figure.suptitle(f"{plain(name)}: {len(distance):,} pairs of {steps} steps", x=0.01, ha="left", fontsize=9)
    return figure


def top_of(panels: Iterable[np.ndarray]) -> float:
    """The top of axes that panels share: room for all but the largest hundredth, or for all where few would be cut."""
    known = [values[np.isfinite(values)] for values in panels]
    most = max((float(values.max()) for values in known if len(values)), default=1.0)
    usual = max((float(np.percentile(values, 99)) for values in known if len(values)), default=1.0)
    return 1.05 * most if most <= 1.5 * usual else 1.2 * usual or 1.0


def gradient_panel(ax: Axes, distance: np.ndarray, norm: np.ndarray, error: np.ndarray, limit: float) -> None:
    """Norms against distance, coloured by prediction error; those above the top are marked at the edge and counted.

    Args:
        ax: the axes.
        distance: of each pair `(pairs,)`.
        norm: the same.
        error: prediction error, the same.
        limit: the top of the axes.
    """
    above = cut(ax, distance, norm, limit)
    inside = np.flatnonzero(norm <= limit)
    shown = inside[np.linspace(0, len(inside) - 1, min(len(inside), SHOWN_PAIRS)).astype(int)]
    ax.scatter(distance[shown], norm[shown], c=error[shown], s=6, cmap=ERROR_COLOURS, vmin=0, vmax=1, linewidths=0)
    ax.set_xlim(left=0)
    if above:
        ax.annotate(
            f"▲ {above} above", (1, 1), (0, 3), "axes fraction", textcoords="offset points", ha="right", fontsize=7
        )


def panel_title(ax: Axes, title: str, inside: float) -> None:
    """The title, and below it the rank correlation at equal prediction error where it is known."""
    if not np.isnan(inside):
        title += f"\nrank correlation at equal error: {round(inside, 2) + 0.0:.2f}".replace("-", MINUS)
    ax.set_title(title, loc="left", pad=12)


def distance_by_section(columns: Columns, name: str) -> Figure:
    """Distribution of distance in each section, closest section first."""
    sections = columns["section"].astype(str)
    distance = columns["distance"].astype(float)
    names = sorted(set(sections), key=lambda s: float(np.median(distance[sections == s])))
    figure = Figure(figsize=(4.4, 1.2 + 0.38 * len(names)), layout="constrained")
    ax = figure.subplots()
    by_section_boxes(ax, names, sections, distance)
    ax.invert_yaxis()
    ax.set_xlabel(f"{DISTANCE}\n(box: quartiles, whiskers: 5 and 95 %)")
    figure.suptitle(plain(name), x=0.01, ha="left", fontsize=9)
    return figure


def by_section_boxes(ax: Axes, names: list[str], sections: np.ndarray, values: np.ndarray) -> None:
    """A box for each section: quartiles, whiskers at 5 and 95 %.

    Args:
        ax: the axes.
        names: the sections, from the top.
        sections: of each pair `(pairs,)`.
        values: the same.
    """
    groups = [values[sections == name] for name in names]
    ax.boxplot(
        groups,
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": "#9ecae1", "edgecolor": "#08519c"},
        medianprops={"color": "#08306b", "linewidth": 1.5},
        whiskerprops={"color": "#08519c"},
        capprops={"color": "#08519c"},
    )
    labels = [f"{plain(shortened(name))}\nn = {len(group):,}" for name, group in zip(names, groups, strict=True)]
    ax.set_yticks(range(1, len(names) + 1), labels)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(left=0)


# panel -> history's columns with the name of each, and the level that would be even
DYNAMICS: dict[str, tuple[dict[str, str], float | None]] = {
    "closest third's share of the gradient": (
        {"train/share_closest_third": "head", "gradient/share_closest_third": "all parameters"},
        1 / 3,
    ),
    "mean weight": ({"train/mean_weight": "weight"}, 1.0),
    "share of steps whose gradient was clipped": ({"train/clip_fraction": "clipped"}, None),
}
NORMS = {"head_gradient_norm": "head", "gradient_norm": "all parameters"}


def dynamics(columns: Columns, history: Sequence[Json], name: str) -> Figure:
    """Over training: correlation at equal error, share of the update that the closest third takes, weight, clipping."""
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).flat
    for series, (norm, label) in enumerate(NORMS.items()):
        curve_of(axes[0], [*correlation_by_step(columns, norm).items()], series, label)
    axes[0].set_title("rank correlation of norm with distance\nat equal prediction error", loc="left")
    axes[0].set_ylim(-1.1, 1.1)
    axes[0].axhline(0.0, color=QUIET, linewidth=0.7, linestyle=":")
    for ax, (title, (keys, even)) in zip(axes[1:], DYNAMICS.items(), strict=True):
        for series, (key, label) in enumerate(keys.items()):
            curve_of(ax, points_of(history, key), series, label)
        if even is not None:
            ax.axhline(even, color=QUIET, linewidth=0.7, linestyle=":")
        ax.set_title(title, loc="left")
    for ax in figure.axes:
        if len(ax.get_legend_handles_labels()[0]) > 1:
            ax.legend()
    for ax in figure.axes[2:]:
        ax.set_xlabel("step")
    suptitle(figure, name, smooth=len(points_of(history, "train/mean_weight")) >= FEWEST_SMOOTHED)
    return figure


def suptitle(figure: Figure, name: str, smooth: bool) -> None:
    """Write the run's title above the figure, and that its curves are smoothed if they are."""
    smoothing = " (points: as recorded, lines: smoothed)" if smooth else ""
    figure.suptitle(f"{plain(name)}{smoothing}", x=0.01, ha="left", fontsize=9)


def points_of(history: Sequence[Json], key: str) -> list[tuple[int, float]]:
    """(step, value) of every row that has the key."""
    return [(row["step"], float(row[key])) for row in history if row.get(key) is not None]


def curve_of(ax: Axes, points: Sequence[tuple[int, float]], series: int, label: str) -> None:
    """A smoothed line over the points as they are; nothing where none is finite.

    Args:
        ax: the axes.
        points: (step, value) of each.
        series: picks colour, dashes and marker.
        label: for the legend.
    """
    known = [(step, value) for step, value in points if np.isfinite(value)]
    if not known:
        return
    steps, values = zip(*known, strict=True)
    marks = point_style(series) | {"markersize": 2.5, "alpha": 0.35, "linestyle": "none", "markeredgewidth": 0}
    if len(known) == 1:
        marks |= {"markersize": 5, "alpha": 1, "label": label}
    ax.plot(steps, values, zorder=1.5, **marks)
    if len(known) > 1:
        ax.plot(steps, smoothed(values), **line_style(series), label=label)
