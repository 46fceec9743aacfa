"""Figures of the diagnostics: one style, legible at column width, safe for the colour-blind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from rmbench.files import Json

STYLE: dict[Any, Any] = {
    "figure.dpi": 200,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
}
ERROR_COLOURS = "viridis"  # perceptually even, also in grey
SHOWN_PAIRS = 4000


def write_diagnostics(table: pa.Table, folder: Path, history: list[Json] | None = None) -> dict[str, Path]:
    """Draw what a run recorded into `folder`, as PNG and SVG; name -> PNG.

    The gradient figure is left out where no gradient norm was recorded, the dynamics where `history` has fewer than two
    recorded steps.
    """
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    files = {}
    if not np.isnan(columns["head_gradient_norm"].astype(float)).all():
        files["gradient_distance"] = save(gradient_against_distance, folder / "gradient_distance.png", columns)
    files["section_distance"] = save(distance_by_section, folder / "section_distance.png", columns)
    recorded = [row for row in history or [] if "train/mean_weight" in row]
    if len(recorded) > 1:
        files["dynamics"] = save(lambda _: dynamics(history or []), folder / "dynamics.png", columns)
    return files


def save(draw: Callable[[dict[str, np.ndarray]], Figure], path: Path, columns: dict[str, np.ndarray]) -> Path:
    """Draw in the one style; `path` is the PNG, an SVG goes beside it.

    Laid out once and rendered twice; `Figure.savefig` would do both twice for each file, which short runs feel.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = draw(columns)
        FigureCanvasAgg(figure).print_png(path)
        figure.set_layout_engine("none")  # keeps the places found
        FigureCanvasSVG(figure).print_svg(path.with_suffix(".svg"))
    return path


def gradient_against_distance(columns: dict[str, np.ndarray]) -> Figure:
    """Head gradient norm against distance, coloured by prediction error: before weighting (BT) and as trained.

    Before weighting the norm is prediction error x distance (arXiv 2512.06343); the weights are divided out.
    """
    distance = columns["distance"].astype(float)
    error = columns["prediction_error"].astype(float)
    norm = columns["head_gradient_norm"].astype(float)
    shown = np.linspace(0, len(distance) - 1, min(len(distance), SHOWN_PAIRS)).astype(int)
    figure = Figure(figsize=(6.6, 2.9), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    panels = (("before weighting", error * distance), ("as trained", norm))
    for ax, (title, values) in zip(axes, panels, strict=True):
        points = ax.scatter(
            distance[shown], values[shown], c=error[shown], s=6, cmap=ERROR_COLOURS, vmin=0, vmax=1, linewidths=0
        )
        correlation = _correlation(distance, values)
        ax.set_title(f"{title} (r = {correlation:.2f})", loc="left")
        ax.set_xlabel(r"distance $\|h_w - h_l\|$")
        ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
    axes[0].set_ylabel("head gradient norm of the pair")
    figure.colorbar(points, ax=axes, label=r"prediction error $\sigma(-\mathrm{margin})$", pad=0.01)
    return figure


def distance_by_section(columns: dict[str, np.ndarray]) -> Figure:
    """Distribution of distance in each section, closest section first."""
    sections = columns["section"].astype(str)
    distance = columns["distance"].astype(float)
    names = sorted(set(sections), key=lambda s: float(np.median(distance[sections == s])))
    figure = Figure(figsize=(4.4, 0.9 + 0.38 * len(names)), layout="constrained")
    ax = figure.subplots()
    by_section_boxes(ax, names, sections, distance)
    ax.invert_yaxis()
    ax.set_xlabel(r"distance $\|h_w - h_l\|$ (box: quartiles, whiskers: 5 and 95 %)")
    return figure


def by_section_boxes(ax: Axes, names: list[str], sections: np.ndarray, values: np.ndarray) -> None:
    """A box for each section: quartiles, whiskers at 5 and 95 %."""
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
    labels = [f"{_shortened(name)}\nn = {len(group):,}" for name, group in zip(names, groups, strict=True)]
    ax.set_yticks(range(1, len(names) + 1), labels)
    ax.set_xlim(left=0)


# panel -> history's columns with the name of each, and the level that would be even
DYNAMICS: dict[str, tuple[dict[str, str], float | None]] = {
    "correlation of norm with distance": (
        {"train/correlation_norm_distance": "head", "gradient/correlation_norm_distance": "all parameters"},
        0.0,
    ),
    "share of the closest third": (
        {"train/share_closest_third": "head", "gradient/share_closest_third": "all parameters"},
        1 / 3,
    ),
    "mean weight": ({"train/mean_weight": "weight"}, 1.0),
    "steps clipped, share": ({"train/clip_fraction": "clipped"}, None),
}


def dynamics(history: list[Json]) -> Figure:
    """Over training: correlation, share of the update that the closest third takes, mean weight, clipping."""
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    for ax, (title, (series, even)) in zip(figure.subplots(2, 2, sharex=True).flat, DYNAMICS.items(), strict=True):
        for (key, name), colour, style in zip(series.items(), ("#0072b2", "#d55e00"), ("-", "--"), strict=False):
            points = [(row["step"], row[key]) for row in history if row.get(key) is not None]
            if points:
                ax.plot(*zip(*points, strict=True), style, color=colour, marker="o", markersize=2.5, label=name)
        if even is not None:
            ax.axhline(even, color="0.5", linewidth=0.7, linestyle=":")
        if len(ax.get_lines()) > 2:
            ax.legend()
        ax.set_title(title, loc="left")
    for ax in figure.axes[2:]:
        ax.set_xlabel("step")
    return figure


def ending(name: str, letters: int = 40) -> str:
    """The end of a long name, which is where the names of runs differ."""
    return name if len(name) <= letters else "…" + name[1 - letters :]


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and x.std() > 0 and y.std() > 0 else float("nan")
