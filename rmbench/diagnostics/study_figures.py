"""Figures of `rmbench diagnose`: gradient norm against distance, at fixed error, by section; accuracy by distance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rmbench.diagnostics.figures import ERROR_COLOURS, SHOWN_PAIRS, by_section_boxes, ending, save
from rmbench.diagnostics.study import ERROR_BINS, Columns, error_bins, norms_by_loss, spearman_within_bins
from rmbench.files import Json

DISTANCE_BINS = 8
RUN_COLOURS = ("#0072b2", "#d55e00")  # of Okabe and Ito
LOSSES = {"bt": "BT", "normbt": "NormBT"}
POINTS: Json = {"markersize": 4, "capsize": 2, "linewidth": 1}
PARTS = {"head": "head", "all": "all parameters"}


def write_study(columns: Columns, margins: dict[str, np.ndarray], folder: Path) -> dict[str, Path]:
    """Draw every figure that the columns allow, as PNG and SVG; name -> PNG.

    Args:
        columns: what `study` takes.
        margins: name -> margins `(pairs,)` of one or two models on the same pairs.
        folder: where they go.
    """
    usable = (columns["distance"] > 0) & (columns["margin_gradient_norm"] > 0)
    kept = {name: values[usable] for name, values in columns.items()}
    if not usable.any():
        return {}
    kept |= norms_by_loss(kept)
    figures = {
        "gradient_against_distance": gradient_against_distance,
        "norm_within_error_bins": norm_within_error_bins,
        "sections": sections,
    }
    files = {name: save(draw, folder / f"{name}.png", kept) for name, draw in figures.items()}
    files["accuracy_by_distance"] = save(
        lambda c: accuracy_by_distance(c["distance"], margins), folder / "accuracy_by_distance.png", columns
    )
    return files


def gradient_against_distance(columns: Columns) -> Figure:
    """Norm against distance, coloured by prediction error: head and all parameters, under BT and under NormBT."""
    distance, error = columns["distance"], columns["prediction_error"]
    shown = np.linspace(0, len(distance) - 1, min(len(distance), SHOWN_PAIRS)).astype(int)
    figure = Figure(figsize=(6.6, 5.0), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, (part, part_name) in zip(axes, PARTS.items(), strict=True):
        for ax, (loss, loss_name) in zip(row, LOSSES.items(), strict=True):
            values = columns[f"{part}_{loss}"]
            points = ax.scatter(
                distance[shown], values[shown], c=error[shown], s=6, cmap=ERROR_COLOURS, vmin=0, vmax=1, linewidths=0
            )
            inside = spearman_within_bins(columns, f"{part}_{loss}")
            ax.set_title(f"{loss_name}, {part_name}", loc="left")
            ax.text(
                0.03, 0.97, f"rank correlation at equal error {inside:.2f}", transform=ax.transAxes, va="top", size=7
            )
            ax.set_ylim(0, 1.2 * max(np.percentile(columns[f"{part}_{name}"], 99) for name in LOSSES))
            ax.set_xlim(left=0)
            ax.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))
        row[0].set_ylabel("gradient norm of the pair")
    for ax in axes[1]:
        ax.set_xlabel(r"distance $\|h_w - h_l\|$")
    figure.colorbar(points, ax=axes, label=r"prediction error $\sigma(-\mathrm{margin})$", pad=0.01)
    return figure


def norm_within_error_bins(columns: Columns) -> Figure:
    """Mean norm over all parameters from the closest to the farthest pairs of each bin of prediction error."""
    import matplotlib as mpl

    colours = mpl.colormaps[ERROR_COLOURS](np.linspace(0.05, 0.85, ERROR_BINS))
    markers = "osD^v"
    figure = Figure(figsize=(6.6, 2.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (loss, name) in zip(axes, LOSSES.items(), strict=True):
        for where, colour, marker in zip(error_bins(columns["prediction_error"]), colours, markers, strict=True):
            order = where[np.argsort(columns["distance"][where], kind="stable")]
            parts = [part for part in np.array_split(order, 6) if len(part)]
            low, high = columns["prediction_error"][where].min(), columns["prediction_error"][where].max()
            ax.plot(
                [columns["distance"][part].mean() for part in parts],
                [columns[f"all_{loss}"][part].mean() for part in parts],
                color=colour,
                marker=marker,
                markersize=3.5,
                linewidth=1.2,
                label=f"{low:.2f}-{high:.2f}",
            )
        ax.set_title(f"{name}, all parameters", loc="left")
        ax.set_xlabel(r"distance $\|h_w - h_l\|$")
        ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
    axes[0].set_ylabel("mean gradient norm")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], title="prediction error", loc="outside right center")
    return figure


def sections(columns: Columns) -> Figure:
    """Distance and gradient norm (BT, all parameters) of each section, closest first."""
    labels = columns["section"].astype(str)
    names = sorted(set(labels.tolist()), key=lambda s: float(np.median(columns["distance"][labels == s])))
    figure = Figure(figsize=(6.6, 1.0 + 0.38 * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    by_section_boxes(axes[0], names, labels, columns["distance"])
    by_section_boxes(axes[1], names, labels, columns["all_bt"])
    axes[0].invert_yaxis()
    axes[0].set_xlabel(r"distance $\|h_w - h_l\|$")
    axes[1].set_xlabel("gradient norm under BT")
    return figure


def accuracy_by_distance(distance: np.ndarray, margins: dict[str, np.ndarray]) -> Figure:
    """Accuracy in bins of as many pairs each, by the first model's distance, with 95 % Wilson intervals.

    Of two models also the difference, first minus second, with the interval of paired proportions.
    """
    bins = [b for b in np.array_split(np.argsort(distance, kind="stable"), min(DISTANCE_BINS, len(distance))) if len(b)]
    right = {name: [margin[b] > 0 for b in bins] for name, margin in margins.items()}
    two = len(margins) > 1
    figure = Figure(figsize=(4.4, 3.8 if two else 2.9), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1)) if two else [figure.subplots()]
    x = np.arange(len(bins))

    def points(ax: Axes, at: np.ndarray, found: list[tuple[float, float, float]], i: int, **style: Any) -> None:
        """Values with their intervals."""
        value, low, high = np.array(found).T
        ax.errorbar(at, value, yerr=(value - low, high - value), fmt="os"[i], **POINTS, **style)

    for i, (name, hits) in enumerate(right.items()):
        found = [(hit.mean(), *wilson(float(hit.mean()), len(hit))) for hit in hits]
        points(axes[0], x + 0.24 * (i - (len(margins) - 1) / 2), found, i, color=RUN_COLOURS[i], label=ending(name))
    axes[0].axhline(0.5, color="0.5", linewidth=0.7, linestyle=":")
    axes[0].set_ylabel("accuracy")
    if two:
        first, second = right.values()
        found = [paired(int((f & ~s).sum()), int((s & ~f).sum()), len(f)) for f, s in zip(first, second, strict=True)]
        points(axes[1], x, found, 0, color="0.2")
        axes[1].axhline(0, color="0.5", linewidth=0.7, linestyle=":")
        axes[1].set_ylabel("difference")
        figure.legend(loc="outside upper left", ncols=1)
    sizes = sorted({len(b) for b in bins})
    axes[-1].set_xticks(x, [f"{distance[b].mean():.2g}" for b in bins])
    each = "-".join(map(str, sizes))
    axes[-1].set_xlabel(r"mean distance $\|h_w - h_l\|$ of the bin" + f"\n({each} pairs in each, 95 % intervals)")
    return figure


def paired(only_first: int, only_second: int, n: int, z: float = 1.96) -> tuple[float, float, float]:
    """The difference of two proportions of the same `n` items, and its 95 % interval (Agresti and Min 2005).

    `only_first` items are right only under the first, `only_second` only under the second.
    """
    b, c, size = only_first + 0.5, only_second + 0.5, n + 2
    half = z * (b + c - (b - c) ** 2 / size) ** 0.5 / size
    return (only_first - only_second) / n, (b - c) / size - half, (b - c) / size + half


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return centre - half, centre + half
