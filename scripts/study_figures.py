"""The figure of STUDY.md that is drawn from stored results: python scripts/study_figures.py

docs/images/study_steps.png: accuracy of BT and NormBT over the number of steps, on the built-in data.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
STORED = ROOT / "docs" / "study" / "version2.json"
RUNS = {500: "one_rate", 1250: "epochs_10", 2500: "epochs_20"}  # steps -> setting
SHOWN = {"loss=bt": ("BT", "#0072b2", "o", "--"), "loss=normbt": ("NormBT", "#d55e00", "s", "-")}


def accuracies(stored: dict) -> dict[str, list[tuple[int, float, float]]]:
    """(steps, mean, standard deviation over seeds) of each loss."""
    found: dict[str, list[tuple[int, float, float]]] = {loss: [] for loss in SHOWN}
    for steps, setting in RUNS.items():
        for loss, _rate, _seeds, cell, *_ in stored[f"version2/controls/{setting}"]["results"]["rows"]:
            if loss in found:
                mean, sd = cell.split(" ± ")
                found[loss].append((steps, float(mean), float(sd)))
    return found


def main(file: Path) -> None:
    """Draw it."""
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for loss, points in accuracies(json.loads(STORED.read_text())).items():
        name, colour, marker, line = SHOWN[loss]
        steps, mean, sd = zip(*points, strict=True)
        beside = [at * (0.985 if loss == "loss=bt" else 1.015) for at in steps]  # no bar hides another
        axes.errorbar(beside, mean, sd, label=name, color=colour, marker=marker, linestyle=line, capsize=3)
    axes.set_xscale("log")
    axes.set_xticks(list(RUNS), [f"{steps:,}" for steps in RUNS])
    axes.minorticks_off()
    axes.set_xlabel("training steps")
    axes.set_ylabel("accuracy on test pairs, mean ± sd")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=200)


if __name__ == "__main__":
    main(ROOT / "docs" / "images" / "study_steps.png")
