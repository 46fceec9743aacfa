"""curves.png: how a run learnt, from its history: loss, accuracy, learning rate, gradient norm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from rmbench import plotting
from rmbench.diagnostics.figures import curve_of, points_of, suptitle
from rmbench.files import Json
from rmbench.plotting import FEWEST_SMOOTHED, QUIET


def write_curves(history: Sequence[Json], folder: Path, name: str, held_out: tuple[int, float]) -> dict[str, Path]:
    """Draw curves.png, .pdf and .svg into `folder`; nothing where no step was logged.

    Args:
        history: the rows of history.jsonl.
        folder: where the figure goes.
        name: what the run is called in the title.
        held_out: the last step and the held-out accuracy after it.
    """
    if not points_of(history, "train/loss"):
        return {}
    return {"curves": plotting.save(partial(curves, history, name, held_out), folder / "curves.png")}


def curves(history: Sequence[Json], name: str, held_out: tuple[int, float]) -> Figure:
    """Training loss; training and held-out accuracy; learning rate; gradient norm before clipping.

    The held-out loss is plain Bradley-Terry's and has no place beside a training loss of another definition.
    """
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    loss, accuracy, rate, norm = figure.subplots(2, 2, sharex=True).flat
    curve_of(loss, points_of(history, "train/loss"), 0, "training loss")
    curve_of(accuracy, points_of(history, "train/accuracy"), 0, "training pairs")
    evaluated = dict(points_of(history, "eval/accuracy")) | dict([held_out])
    curve_of(accuracy, sorted(evaluated.items()), 1, "held-out pairs")
    accuracy.plot(*zip(*sorted(evaluated.items()), strict=True), linestyle="none", **plotting.point_style(1))
    accuracy.axhline(0.5, color=QUIET, linewidth=0.7, linestyle=":")
    accuracy.legend()
    steps, rates = zip(*points_of(history, "train/learning_rate"), strict=True)
    rate.plot(steps, rates, **plotting.line_style(0))
    curve_of(norm, points_of(history, "train/grad_norm"), 0, "gradient norm")
    titles = ("training loss", "accuracy", "learning rate", "gradient norm, before clipping")
    for ax, title in zip(figure.axes, titles, strict=True):
        ax.set_title(title, loc="left")
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter("{x:g}")  # 2e-05 at its tick, no power of ten above the axis
    norm.set_ylim(bottom=0)
    for ax in (rate, norm):
        ax.set_xlabel("step")
    suptitle(figure, name, smooth=len(points_of(history, "train/loss")) >= FEWEST_SMOOTHED)
    return figure
