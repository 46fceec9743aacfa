"""What the charts of a report show: differences from the baseline, accuracy by distance, curves over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from rmbench.benchmarks.scores import HELD_OUT_FOLDER
from rmbench.files import read_jsonl
from rmbench.history import read_history
from rmbench.reporting.charts import Bar, Line, forest, lines
from rmbench.reporting.collect import Group, Run
from rmbench.reporting.verdicts import Verdict

# a curve of each, under the first of its names that was logged
CURVES = (("benchmark/score", "benchmark/micro_accuracy"), ("eval/accuracy", "train/accuracy"), ("train/loss",))
DISTANCE_BINS = 5
PAIRS_PER_BIN = 10  # fewer are too noisy

Figure = tuple[str, str]  # SVG, caption


def figures(groups: Sequence[Group], verdicts: Sequence[Verdict]) -> list[Figure]:
    """Those for which there are numbers."""
    curves = (curve(groups, key) for key in _logged(groups))
    return [chart for chart in (differences(verdicts), by_distance(groups), *curves) if chart is not None]


def differences(verdicts: Sequence[Verdict]) -> Figure | None:
    """A forest of all verdicts."""
    if not any(v.known for v in verdicts):
        return None
    names = list(dict.fromkeys(v.group for v in verdicts))
    bars = []
    for v in (v for v in verdicts if v.known):
        low, high = v.difference.interval()
        place = names.index(v.group)
        bars.append(Bar(f"{v.group}: {v.place}", 100 * v.difference.value, 100 * low, 100 * high, place, v.word))
    baselines = " and ".join(dict.fromkeys(v.baseline for v in verdicts))
    svg = forest(bars, f"Difference from {baselines}", f"points of accuracy, less {baselines}")
    return svg, f"Difference from {baselines}, with 95 % intervals over seeds and items."


def by_distance(groups: Sequence[Group]) -> Figure | None:
    """Accuracy by fifths of the distance between the two embeddings."""
    placed, by_group = accuracies_by_distance(groups)
    if not by_group:
        return None
    x = range(1, DISTANCE_BINS + 1)
    series = [_line(groups[place].label, x, np.array(bins).T, place) for place, bins in by_group.items()]
    svg = lines(series, "Accuracy by distance", "fifth of the pairs, closest first", "accuracy")
    return svg, (
        "Accuracy by the distance between the two responses' embeddings; pairs are grouped by their mean rank under "
        f"{placed}, every loss alike, since a run's errors are among its own closest pairs. Line: mean over seeds, "
        "band: range."
    )


def accuracies_by_distance(groups: Sequence[Group]) -> tuple[str, dict[int, list[list[float]]]]:
    """Which runs group the pairs, as text; group's place -> for each seed the accuracy in each fifth, closest first.

    A margin is at most the distance times the head's norm, so a run's errors are among its own closest pairs. Pairs are
    therefore grouped by their mean rank under all losses' runs of the other seeds, where there are any.
    """
    scored = {
        (i, seed): found for i, g in enumerate(groups) for seed, run in g.by_seed().items() if (found := _pairs(run))
    }
    first = next(iter(scored.values()), None)
    alike = {key: pairs for key, pairs in scored.items() if first is not None and pairs.items == first.items}
    by_group: dict[int, list[list[float]]] = {}
    for place, seed in alike:
        others = [pairs.ranks for (_, other), pairs in alike.items() if other != seed]
        order = np.argsort(np.mean(others or [pairs.ranks for pairs in alike.values()], axis=0), kind="stable")
        fifths = np.array_split(alike[place, seed].right[order], DISTANCE_BINS)
        by_group.setdefault(place, []).append([float(fifth.mean()) for fifth in fifths])
    placed = "the runs of the other seeds" if len({seed for _, seed in alike}) > 1 else "all runs"
    return placed, by_group


def curve(groups: Sequence[Group], key: str) -> Figure | None:
    """A logged number over the steps."""
    series = []
    for place, group in enumerate(groups):
        by_step: dict[float, list[float]] = {}
        for run in group.runs:
            for row in read_history(run.folder):
                if isinstance(row.get(key), (int, float)) and math.isfinite(row[key]) and "step" in row:
                    by_step.setdefault(row["step"], []).append(row[key])
        if by_step:
            series.append(_line(group.label, sorted(by_step), [by_step[step] for step in sorted(by_step)], place))
    if not series:
        return None
    return lines(series, key, "step", key), f"{key} over training; line: mean over seeds, band: range."


def _line(label: str, x: Sequence[float], columns: Sequence[Sequence[float]] | np.ndarray, series: int) -> Line:
    """Mean and range over seeds at each x."""
    means, lows, highs = ([float(f(column)) for column in columns] for f in (np.mean, np.min, np.max))
    return Line(label, list(x), means, lows, highs, series)


@dataclass(frozen=True)
class Pairs:
    """The pairs of a score file: which they are, ranks of their distances `(pairs,)`, 1 where the chosen one wins."""

    items: tuple[str, ...]
    ranks: np.ndarray
    right: np.ndarray


def _pairs(run: Run) -> Pairs | None:
    """Of a benchmark, or of the held-out pairs, if there are enough."""
    for file in sorted(run.folder.glob("eval/*/scores.jsonl"), key=lambda f: f.parent.name == HELD_OUT_FOLDER):
        rows = [row for row in read_jsonl(file) if "score_chosen" in row and row.get("distance") is not None]
        if len(rows) >= PAIRS_PER_BIN * DISTANCE_BINS:
            right = np.array([row["score_chosen"] > row["score_rejected"] for row in rows], dtype=float)
            names = (file.parent.name, *(str(row["id"]) for row in rows))
            return Pairs(names, rankdata([row["distance"] for row in rows]), right)
    return None


def _logged(groups: Sequence[Group]) -> list[str]:
    first = next((run for group in groups for run in group.runs if run.state == "finished"), None)
    keys = {key for row in read_history(first.folder) for key in row} if first else set()
    return [next(name for name in names if name in keys) for names in CURVES if keys.intersection(names)]
