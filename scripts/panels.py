"""The panels that docs/diagnostics.md names for W&B, drawn from runs: python scripts/panels.py OUT.png RUN..."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from rmbench import plotting, runs
from rmbench.diagnostics.figures import points_of
from rmbench.history import read_history

PAGE = Path(__file__).resolve().parents[1] / "docs" / "diagnostics.md"
ROW = re.compile(r"^\| ([^|]+) \| (line plot|custom chart|media) \| `([^`]+)` \|", re.MULTILINE)


@dataclass(frozen=True)
class Panel:
    """A row of the page: the panel's title, W&B's kind of panel, the key on its y-axis."""

    title: str
    kind: str
    key: str


def panels() -> list[Panel]:
    """Those of the page, in its order."""
    return [Panel(*row) for row in ROW.findall(PAGE.read_text("utf-8"))]


def drawn(folders: list[Path]) -> Figure:
    """The line plots whose key the runs have logged, a line for each run."""
    histories = {runs.title_of(folder): read_history(folder) for folder in folders}
    known = [p for p in panels() if any(points_of(rows, p.key) for rows in histories.values())]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = list(figure.subplots(-(-len(known) // 3), 3, squeeze=False).flat)
    for ax, panel in zip(axes, known, strict=False):
        for series, rows in enumerate(histories.values()):
            steps, values = zip(*points_of(rows, panel.key), strict=True)
            ax.plot(steps, values, **plotting.line_style(series))
        ax.set_title(f"{panel.title}\n{panel.key}", loc="left", fontsize=7)
        ax.set_xlabel("step")
    for ax in axes[len(known) :]:
        ax.set_visible(False)
    handles = list(figure.axes[0].lines)
    figure.legend(handles, list(histories), loc="outside lower left", ncols=3, handlelength=4)
    return figure


if __name__ == "__main__":
    plotting.save(lambda: drawn([Path(name) for name in sys.argv[2:]]), Path(sys.argv[1]))
