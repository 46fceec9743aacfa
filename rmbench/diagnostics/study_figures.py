"""Figures of `rmbench diagnose`: gradient norm against distance, at fixed error, by section; accuracy by distance."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rmbench import plotting
from rmbench.diagnostics.figures import DISTANCE, ERROR, by_section_boxes, gradient_panel, panel_title, top_of
from rmbench.diagnostics.study import ERROR_BINS, Columns, error_bins, norms_by_loss, spearman_within_bins
from rmbench.plotting import (
    ERROR_COLOURS,
    QUIET,
    ending,
    in_bins,
    line_style,
    plain,
    point_style,
    ranges,
    show_bins,
)

DISTANCE_BINS = 8
LOSSES = {"bt": "BT", "normbt": "NormBT"}
PARTS = {"head": "head", "all": "all parameters"}
BIN_COLOURS = [tuple(colour) for colour in ERROR_COLOURS(np.linspace(0.0, 1.0, ERROR_BINS))]


def write_study(columns: Columns, margins: dict[str, np.ndarray], folder: Path) -> dict[str, Path]:
    """Draw every figure that the columns allow, as PNG, PDF and SVG; name -> PNG.

    Args:
        columns: what `study` takes.
        margins: name -> margins `(pairs,)` of one or two models on the same pairs; the first is the one studied.
        folder: where they go.
    """
    usable = (columns["distance"] > 0) & (columns["margin_gradient_norm"] > 0)
    kept = {name: values[usable] for name, values in columns.items()}
    if not usable.any():
        return {}
    kept |= norms_by_loss(kept)
    model = next(iter(margins))
    figures = {
        "gradient_against_distance": partial(gradient_against_distance, kept, model),
        "norm_within_error_bins": partial(norm_within_error_bins, kept, model),
        "sections": partial(sections, kept, model),
        "accuracy_by_distance": partial(accuracy_by_distance, columns["distance"], margins),
    }
    return {name: plotting.save(draw, folder / f"{name}.png") for name, draw in figures.items()}


def _titled(figure: Figure, model: str, about: str) -> Figure:
    figure.suptitle(f"{plain(ending(model))}: {about}", x=0.01, ha="left", fontsize=9)
    return figure


def gradient_against_distance(columns: Columns, model: str) -> Figure:
    """Norm against distance, coloured by prediction error: head and all parameters, under BT and under NormBT.

    Both losses share a row's scale; points above it are marked at the edge and counted.
    """
    figure = Figure(figsize=(6.6, 5.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, (part, part_name) in zip(axes, PARTS.items(), strict=True):
        limit = top_of([columns[f"{part}_{loss}"] for loss in LOSSES])
        for ax, (loss, loss_name) in zip(row, LOSSES.items(), strict=True):
            gradient_panel(ax, columns["distance"], columns[f"{part}_{loss}"], columns["prediction_error"], limit)
            panel_title(ax, f"{loss_name}, {part_name}", spearman_within_bins(columns, f"{part}_{loss}"))
        row[0].set_ylabel("gradient norm of the pair")
    for ax in axes[1]:
        ax.set_xlabel(DISTANCE)
    figure.colorbar(axes[0][0].collections[0], ax=axes, label=ERROR, pad=0.01, aspect=30)
    return _titled(figure, model, f"{len(columns['distance']):,} pairs")


def norm_within_error_bins(columns: Columns, model: str) -> Figure:
    """Mean norm over all parameters from the closest to the farthest pairs of each bin of prediction error.

    Both panels share a scale that holds every point.
    """
    error = columns["prediction_error"]
    bins = [where for where in error_bins(error) if len(where)]
    labels = ranges([(error[where].min(), error[where].max()) for where in bins])
    figure = Figure(figsize=(6.6, 3.1), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    most = 0.0
    for ax, (loss, name) in zip(axes, LOSSES.items(), strict=True):
        for i, (where, label) in enumerate(zip(bins, labels, strict=True)):
            order = where[np.argsort(columns["distance"][where], kind="stable")]
            parts = [part for part in np.array_split(order, 6) if len(part)]
            means = [columns[f"all_{loss}"][part].mean() for part in parts]
            most = max(most, *means)
            style = line_style(i) | point_style(i) | {"color": BIN_COLOURS[i], "linewidth": 1.2}
            ax.plot([columns["distance"][part].mean() for part in parts], means, label=label, **style)
        ax.set_title(f"{name}, all parameters", loc="left")
        ax.set_xlabel(DISTANCE)
    axes[0].set_xlim(left=0)
    axes[0].set_ylim(0, 1.05 * most)
    axes[0].set_ylabel("mean gradient norm")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], title="prediction error", loc="outside right center", handlelength=3.5)
    return _titled(figure, model, "each point a sixth of the pairs of equal error")


def sections(columns: Columns, model: str) -> Figure:
    """Distance and gradient norm (BT, all parameters) of each section, closest first."""
    labels = columns["section"].astype(str)
    names = sorted(set(labels.tolist()), key=lambda s: float(np.median(columns["distance"][labels == s])))
    figure = Figure(figsize=(6.6, 1.2 + 0.38 * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    by_section_boxes(axes[0], names, labels, columns["distance"])
    by_section_boxes(axes[1], names, labels, columns["all_bt"])
    axes[0].invert_yaxis()
    axes[0].set_xlabel(DISTANCE)
    axes[1].set_xlabel("gradient norm under BT, all parameters")
    return _titled(figure, model, "sections, closest first (box: quartiles, whiskers: 5 and 95 %)")


def accuracy_by_distance(distance: np.ndarray, margins: dict[str, np.ndarray]) -> Figure:
    """Accuracy in bins of as many pairs each, by the first model's distance, with 95 % Wilson intervals.

    Of two models also the difference, first minus second, with the interval of paired proportions.
    """
    bins = [b for b in np.array_split(np.argsort(distance, kind="stable"), min(DISTANCE_BINS, len(distance))) if len(b)]
    right = {name: [margin[b] > 0 for b in bins] for name, margin in margins.items()}
    two = len(margins) > 1
    figure = Figure(figsize=(5.6, 4.6 if two else 3.3), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1)) if two else [figure.subplots()]
    for i, (name, hits) in enumerate(right.items()):
        found = [(float(hit.mean()), *wilson(float(hit.mean()), len(hit))) for hit in hits]
        in_bins(axes[0], found, i, 0.24 * (i - (len(margins) - 1) / 2), label=plain(ending(name)))
    axes[0].axhline(0.5, color=QUIET, linewidth=0.7, linestyle=":")
    axes[0].set_ylabel("accuracy")
    if two:
        first, second = right.values()
        found = [paired(int((f & ~s).sum()), int((s & ~f).sum()), len(f)) for f, s in zip(first, second, strict=True)]
        in_bins(axes[1], found, 2)
        axes[1].axhline(0, color=QUIET, linewidth=0.7, linestyle=":")
        axes[1].set_ylabel("first \N{MINUS SIGN} second")
        figure.legend(loc="outside lower left", ncols=1)
    each = "\N{EN DASH}".join(map(str, sorted({len(b) for b in bins})))
    show_bins(list(axes), ranges([(distance[b].min(), distance[b].max()) for b in bins]))
    axes[-1].set_xlabel(f"bin of {DISTANCE}: closest to farthest, {each} pairs in each")
    return _titled(figure, next(iter(margins)), "accuracy by distance, 95 % intervals")


def paired(only_first: int, only_second: int, n: int, z: float = 1.96) -> tuple[float, float, float]:
    """The difference of two proportions of the same items, and its 95 % interval (Agresti and Min 2005).

    Args:
        only_first: items that are right only under the first.
        only_second: those that are right only under the second.
        n: items in all.
        z: quantile of the normal distribution.
    """
    b, c, size = only_first + 0.5, only_second + 0.5, n + 2
    half = z * (b + c - (b - c) ** 2 / size) ** 0.5 / size
    return (only_first - only_second) / n, (b - c) / size - half, (b - c) / size + half


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return centre - half, centre + half
