"""Figures of `rmbench diagnose`: gradient norm against distance, at fixed error, by section; accuracy by distance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rmbench.diagnostics.figures import ERROR_COLOURS, SHOWN_PAIRS, by_section_boxes, save
from rmbench.diagnostics.study import ERROR_BINS, Columns, error_bins, norms_by_loss, spearman_within_bins

DISTANCE_BINS = 8
RUN_COLOURS = ("#0072b2", "#d55e00")  # of Okabe and Ito
LOSSES = {"bt": "BT", "normbt": "NormBT"}
PARTS = {"head": "head", "all": "all parameters"}


def write_study(columns: Columns, margins: dict[str, np.ndarray], folder: Path) -> dict[str, Path]:
    """Draw every figure that the columns allow, as PNG and SVG; name -> PNG.

    Args:
        columns: what `study` takes.
        margins: name -> margins `(pairs,)` of one or two models on the same pairs.
        folder: where they go.
    """
    usable = (columns["distance"] > 0) & (columns["gradient_distance"] > 0)
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
    """Accuracy in bins of as many pairs each, by the first model's distance, with 95 % Wilson intervals."""
    bins = [b for b in np.array_split(np.argsort(distance, kind="stable"), min(DISTANCE_BINS, len(distance))) if len(b)]
    figure = Figure(figsize=(4.4, 2.9), layout="constrained")
    ax = figure.subplots()
    x = np.arange(len(bins))
    for i, (name, margin) in enumerate(margins.items()):
        right = np.array([(margin[b] > 0).mean() for b in bins])
        intervals = np.array([wilson(float(p), len(b)) for p, b in zip(right, bins, strict=True)]).T
        ax.errorbar(
            x + 0.12 * (i - (len(margins) - 1) / 2),
            right,
            yerr=np.abs(intervals - right),
            fmt="os"[i],
            markersize=4,
            capsize=2,
            linewidth=1,
            color=RUN_COLOURS[i],
            label=name,
        )
    ax.axhline(0.5, color="0.5", linewidth=0.7, linestyle=":")
    ax.set_xticks(x, [f"{distance[b].mean():.2g}" for b in bins])
    ax.set_xlabel(r"mean distance $\|h_w - h_l\|$ of the bin")
    ax.set_ylabel("accuracy (95 % interval)")
    if len(margins) > 1:
        ax.legend()
    return figure


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return centre - half, centre + half
