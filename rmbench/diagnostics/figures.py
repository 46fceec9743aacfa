"""Figures of the diagnostics: one style, legible at column width, safe for the colour-blind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def write_diagnostics(table: pa.Table, folder: Path) -> dict[str, Path]:
    """Draw `folder`/gradient_distance.png and section_distance.png from the recorded pairs; name -> file.

    The gradient figure is left out where no gradient norm was recorded.
    """
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    files = {}
    if not np.isnan(columns["head_gradient_norm"].astype(float)).all():
        files["gradient_distance"] = folder / "gradient_distance.png"
        with _style():
            gradient_against_distance(columns).savefig(files["gradient_distance"])
    files["section_distance"] = folder / "section_distance.png"
    with _style():
        distance_by_section(columns).savefig(files["section_distance"])
    return files


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
    groups = [distance[sections == name] for name in names]
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
    _label_sections(ax, names, groups)
    ax.set_xlabel(r"distance $\|h_w - h_l\|$ (box: quartiles, whiskers: 5 and 95 %)")
    ax.set_xlim(left=0)
    return figure


def _label_sections(ax: Axes, names: list[str], groups: list[np.ndarray]) -> None:
    labels = [f"{_shortened(name)}\nn = {len(group):,}" for name, group in zip(names, groups, strict=True)]
    ax.set_yticks(range(1, len(names) + 1), labels)
    ax.invert_yaxis()


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and x.std() > 0 and y.std() > 0 else float("nan")


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield
