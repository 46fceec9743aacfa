"""One style for every figure: legible at column width, in grey print and to the colour-blind; PNG, PDF and SVG."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from rmbench.files import Json

STYLE: dict[Any, Any] = {
    "figure.dpi": 200,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3 fonts
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "rmbench",  # the same figure is the same file
}
# Okabe and Ito's colours, ordered so that neighbours also differ in grey; a marker and a dash pattern go with each
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vP"
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (2, 1)), (0, (8, 2)))
WIDTHS = (2.6, 1.8, 1.8, 1.4, 1.4, 1.2)  # later lines are thinner: where two coincide, both are seen
QUIET = "#777777"
FEWEST_SMOOTHED = 30  # points of a curve
KINDS = (".png", ".pdf", ".svg")  # files of a figure


def _error_colours() -> Colormap:
    """Viridis without its yellow end, which is lost on white paper."""
    return ListedColormap(mpl.colormaps["viridis"](np.linspace(0.0, 0.9, 256)))


ERROR_COLOURS = _error_colours()


def line_style(series: int) -> Json:
    """Colour, dashes and width of a series' line."""
    i = series % len(COLOURS)
    return {"color": COLOURS[i], "linestyle": DASHES[i], "linewidth": WIDTHS[i]}


def point_style(series: int) -> Json:
    """Colour and marker of a series' points."""
    i = series % len(COLOURS)
    return {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 4.5}


def save(draw: Callable[[], Figure], path: Path) -> Path:
    """Draw in the one style; `path` is the PNG, a PDF and an SVG go beside it.

    Laid out once and rendered three times; `Figure.savefig` would do both for each file, which short runs feel.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = draw()
        FigureCanvasAgg(figure).print_png(path)
        figure.set_layout_engine("none")  # keeps the places found
        FigureCanvasPdf(figure).print_pdf(path.with_suffix(".pdf"), metadata={"CreationDate": None})
        FigureCanvasSVG(figure).print_svg(path.with_suffix(".svg"), metadata={"Date": None})
    return path


def inline(svg: str) -> str:
    """An SVG file as an element of an HTML page: the page's font, and its colours under their names.

    Ink, grid and quiet text become `var(--ink)`, `var(--line)`, `var(--quiet)`, the colours of the series `var(--s0)`
    to `var(--s5)`, so that the figure follows the page's light or dark theme. The background goes.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", element, flags=re.DOTALL)
    element = re.sub(r"<style.*?</style>", "", element, count=1, flags=re.DOTALL)  # it would hold for the whole page
    element = re.sub(r"<clipPath.*?</clipPath>", "", element, flags=re.DOTALL)
    element = re.sub(r' (?:clip-path|xmlns(?::xlink)?|version)="[^"]*"', "", element)
    element = re.sub(r'<g id="patch_1">.*?</g>', "", element, count=1, flags=re.DOTALL)  # the figure's background
    used = set(re.findall(r'href="#([^"]*)"', element))
    element = re.sub(r' id="([^"]*)"', lambda found: found.group() if found[1] in used else "", element)
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r"font: (\d[\d.]*px) '[^;\"]*", r"font-size: \1; font-family: inherit", element)
    names = {"#dddddd": "--line", QUIET: "--quiet", "#000000": "--ink", "#262626": "--ink", "#ffffff": "--paper"}
    names |= {colour: f"--s{i}" for i, colour in enumerate(COLOURS)}
    for colour, name in names.items():
        element = element.replace(colour, f"var({name})")
    return element.replace("<text ", '<text fill="var(--ink)" ')


def plain(text: str) -> str:
    """A name as it is: a dollar sign in it starts no formula.

    >>> plain("cost=$5")
    'cost=\\\\$5'
    """
    return text.replace("$", r"\$")


def ending(name: str, letters: int = 40) -> str:
    """The end of a long name, which is where the names of runs differ."""
    return name if len(name) <= letters else "…" + name[1 - letters :]


def shortened(name: str, letters: int = 24) -> str:
    """The beginning of a long name."""
    return name if len(name) <= letters else name[: letters - 1] + "…"


def ranges(limits: Sequence[tuple[float, float]]) -> list[str]:
    """Each lower and upper limit as text, with as many digits as tell them all apart.

    >>> ranges([(0.1, 0.4999), (0.5, 0.9)])
    ['0.10–0.50', '0.50–0.90']
    >>> ranges([(0.498, 0.502)])
    ['0.498–0.502']
    """

    def written(digits: int) -> list[tuple[str, str]]:
        """The limits with so many digits."""
        return [(f"{low:.{digits}f}", f"{high:.{digits}f}") for low, high in limits]

    chosen = next((d for d in range(2, 7) if all(low != high for low, high in written(d))), 6)
    return [f"{low}\N{EN DASH}{high}" for low, high in written(chosen)]


def cut(ax: Axes, x: np.ndarray, y: np.ndarray, limit: float) -> int:
    """Mark the points above `limit` on the edge of the axes; how many there are.

    Args:
        ax: the axes.
        x: of the points `(pairs,)`.
        y: the same.
        limit: the new top of the axes.
    """
    above = y > limit
    ax.set_ylim(0, limit)
    if above.any():
        ax.plot(x[above], np.full(above.sum(), limit), "^", color="black", markersize=3.5, clip_on=False, zorder=5)
    return int(above.sum())


def in_bins(
    ax: Axes, found: Sequence[tuple[float, float, float]], series: int, offset: float = 0.0, label: str = ""
) -> None:
    """Draw a value with its lower and upper end in each bin.

    Args:
        ax: the axes.
        found: value, lower and upper end for each bin.
        series: picks colour and marker.
        offset: how far beside the bin's centre, in bins.
        label: for the legend.
    """
    value, low, high = np.array(found).T
    ends = (value - low, high - value)
    ax.errorbar(
        np.arange(len(found)) + offset,
        value,
        yerr=np.maximum(ends, 0),
        linestyle="none",
        capsize=2,
        linewidth=1,
        label=label or None,
        **point_style(series),
    )


def show_bins(axes: Sequence[Axes], labels: Sequence[str]) -> None:
    """The bins of `in_bins` as fields with their names: shades in turn, no number axis."""
    for ax in axes:
        for i in range(0, len(labels), 2):
            ax.axvspan(i - 0.5, i + 0.5, color="#dddddd", alpha=0.35, linewidth=0, zorder=0)
        ax.set_xlim(-0.5, len(labels) - 0.5)
        ax.grid(axis="x", visible=False)
        ax.tick_params(axis="x", length=0)
    wide = max(map(len, labels)) * len(labels) > 60
    axes[-1].set_xticks(range(len(labels)), labels, rotation=30 if wide else 0, ha="right" if wide else "center")


def smoothed(values: Sequence[float]) -> np.ndarray:
    """A centred Gaussian mean, narrower than a tenth of the curve; short curves stay as they are.

    At the ends the weights of what is there count, so nothing lags behind.

    >>> smoothed([1.0] * 40).round(6).tolist() == [1.0] * 40
    True
    """
    found = np.asarray(values, dtype=float)
    if len(found) < FEWEST_SMOOTHED:
        return found
    width = len(found) / FEWEST_SMOOTHED
    reach = np.arange(-int(3 * width), int(3 * width) + 1)
    kernel = np.exp(-0.5 * (reach / width) ** 2)

    def summed(of: np.ndarray) -> np.ndarray:
        """Sums under the kernel, of zeros beyond both ends."""
        return np.convolve(np.pad(of, len(reach) // 2), kernel, mode="valid")

    return summed(found) / summed(np.ones_like(found))
