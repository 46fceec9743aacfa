"""The curve of a loss card as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from rmbench.losses.cards import Card, curves

STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 9,
}


def write_figure(card: Card, path: Path) -> None:
    """Loss and pair weight over the margin, a line for each distance or rating margin, as a PNG."""
    margins = np.linspace(-5, 5, 201)
    what, found = curves(card, margins.tolist())
    where = f", at $(r_w + r_l) / 2 = {card.mean_reward:g}$" if card.mean_reward else ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 2.7), layout="constrained", dpi=200)
        axes = figure.subplots(1, 2, sharex=True)
        colours = mpl.colormaps["viridis"](np.linspace(0.05, 0.85, len(found)))
        for (value, lines), colour in zip(found.items(), colours, strict=True):
            for ax, line in zip(axes, lines, strict=True):
                ax.plot(margins, line.detach().numpy(), color=colour, linewidth=1.4, label=f"{value:g}")
        for ax, title in zip(axes, ("loss of a pair", "its weight, -∂ loss / ∂ margin"), strict=True):
            ax.set_title(title, loc="left", fontsize=9)
            ax.set_xlabel(r"margin $r_w - r_l$" + where)
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
            ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
        if what:
            axes[1].legend(title=what, frameon=False, fontsize=8, title_fontsize=8)
        figure.suptitle(card.name, x=0.01, ha="left", fontsize=10, fontweight="bold")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
