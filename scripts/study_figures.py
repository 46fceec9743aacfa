"""The figure of STUDY.md that is drawn from stored results: python scripts/study_figures.py

docs/images/study_steps.png: accuracy of BT and NormBT over the number of steps, on the built-in data.
"""

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from rmbench import plotting

ROOT = Path(__file__).parent.parent
STORED = ROOT / "docs" / "study" / "version2.json"
RUNS = {500: "one_rate", 1250: "epochs_10", 2500: "epochs_20"}  # steps -> setting
SHOWN = {"loss=bt": "BT", "loss=normbt": "NormBT"}


def accuracies(stored: dict) -> dict[str, list[tuple[int, float, float]]]:
    """(steps, mean, standard deviation over seeds) of each loss."""
    found: dict[str, list[tuple[int, float, float]]] = {loss: [] for loss in SHOWN}
    for steps, setting in RUNS.items():
        for loss, _rate, _seeds, cell, *_ in stored[f"version2/controls/{setting}"]["results"]["rows"]:
            if loss in found:
                mean, sd = cell.split(" ± ")
                found[loss].append((steps, float(mean), float(sd)))
    return found


def drawn(stored: dict) -> Figure:
    """A line for each loss; its points stand a little aside, so that no bar hides another."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for series, (loss, points) in enumerate(accuracies(stored).items()):
        steps, mean, sd = zip(*points, strict=True)
        beside = [at * (0.985 + 0.03 * series) for at in steps]
        style = plotting.line_style(series) | plotting.point_style(series)
        axes.errorbar(beside, mean, sd, label=SHOWN[loss], capsize=3, elinewidth=1.2, **style)
    axes.set_xscale("log")
    axes.set_xticks(list(RUNS), [f"{steps:,}" for steps in RUNS])
    axes.minorticks_off()
    axes.set_xlabel("training steps")
    axes.set_ylabel("accuracy on test pairs, mean ± sd")
    axes.legend(loc="lower right")
    return figure


def main(file: Path) -> None:
    """Draw it in the style of all figures."""
    with mpl.rc_context(plotting.STYLE):
        drawn(json.loads(STORED.read_text())).savefig(file)


if __name__ == "__main__":
    main(ROOT / "docs" / "images" / "study_steps.png")
