"""The curve of a loss card as a figure."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rmbench import plotting
from rmbench.losses.cards import Card, curves
from rmbench.plotting import ERROR_COLOURS, QUIET, line_style, plain


def write_figure(card: Card, path: Path) -> None:
    """Loss and its slope over the margin, a line for each distance or rating margin, as PNG, PDF and SVG."""
    plotting.save(partial(draw, card), path)


def draw(card: Card) -> Figure:
    """Two panels: the loss of a pair, and its slope."""
    margins = np.linspace(-5, 5, 201)
    what, found = curves(card, margins.tolist())
    where = f", at $(r_w + r_l) / 2 = {card.mean_reward:g}$" if card.mean_reward else ""
    figure = Figure(figsize=(6.6, 2.9), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    colours = ERROR_COLOURS(np.linspace(0.0, 1.0, len(found)))
    for i, ((value, lines), colour) in enumerate(zip(found.items(), colours, strict=True)):
        style = line_style(i) | {"color": tuple(colour), "linewidth": 1.4}
        for ax, line in zip(axes, lines, strict=True):
            ax.plot(margins, line.detach().numpy(), label=f"{value:g}", **style)
    for ax, title in zip(
        axes, ("loss of a pair", "slope of the loss, $-\\partial$ loss / $\\partial$ margin"), strict=True
    ):
        ax.set_title(title, loc="left")
        ax.set_xlabel(r"margin $r_w - r_l$" + where)
        ax.axhline(0, color=QUIET, linewidth=0.6, zorder=0)
        ax.axvline(0, color=QUIET, linewidth=0.6, zorder=0)
    if what:
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, title=what, loc="outside right center", handlelength=3)
    figure.suptitle(plain(card.name), x=0.01, ha="left", fontsize=9)
    return figure
