"""What the charts of a report show: differences from the baseline, accuracy by distance, curves over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rmbench.files import read_jsonl
from rmbench.reporting.charts import Bar, Line, forest, lines
from rmbench.reporting.collect import Group, Run
from rmbench.reporting.verdicts import HELD_OUT_FOLDER, Verdict

# a curve of each, under the first of its names that was logged
CURVES = (("benchmark/score", "benchmark/micro_accuracy"), ("eval/accuracy", "accuracy"), ("loss",))
DISTANCE_BINS = 5
PAIRS_PER_BIN = 10  # fewer would say nothing

Figure = tuple[str, str]  # SVG, caption


def figures(groups: Sequence[Group], verdicts: Sequence[Verdict]) -> list[Figure]:
    """Those for which there are numbers."""
    curves = (curve(groups, key) for key in _logged(groups))
    return [drawn for drawn in (differences(verdicts), by_distance(groups), *curves) if drawn is not None]


def differences(verdicts: Sequence[Verdict]) -> Figure | None:
    """A forest of all verdicts."""
    if not verdicts:
        return None
    names = list(dict.fromkeys(v.group for v in verdicts))
    bars = []
    for v in verdicts:
        low, high = v.difference.interval()
        place = names.index(v.group)
        bars.append(Bar(f"{v.group}: {v.place}", 100 * v.difference.value, 100 * low, 100 * high, place, v.word))
    baselines = " and ".join(dict.fromkeys(v.baseline for v in verdicts))
    svg = forest(bars, f"Difference from {baselines}", f"points of accuracy, less {baselines}")
    return svg, f"Difference from {baselines}, with 95 % intervals over seeds and items."


def by_distance(groups: Sequence[Group]) -> Figure | None:
    """Accuracy by fifths of the distance between the two embeddings; each run has its own distances."""
    series = []
    for place, group in enumerate(groups):
        bins = [found for run in group.runs if (found := _distance_bins(run)) is not None]
        if bins:
            series.append(_line(group.label, range(1, DISTANCE_BINS + 1), np.array(bins).T, place))
    if not series:
        return None
    svg = lines(series, "Accuracy by distance", "fifth of the pairs, closest first", "accuracy")
    return svg, "Accuracy by the distance between the two responses' embeddings; line: mean over seeds, band: range."


def curve(groups: Sequence[Group], key: str) -> Figure | None:
    """A logged number over the steps."""
    series = []
    for place, group in enumerate(groups):
        by_step: dict[float, list[float]] = {}
        for run in group.runs:
            for row in _history(run):
                if isinstance(row.get(key), (int, float)):
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


def _distance_bins(run: Run) -> list[float] | None:
    """Accuracies of the benchmark's pairs, or of the held-out ones, in fifths of equal size."""
    for file in sorted(run.folder.glob("eval/*/scores.jsonl"), key=lambda f: f.parent.name == HELD_OUT_FOLDER):
        rows = [row for row in read_jsonl(file) if "score_chosen" in row and row.get("distance") is not None]
        if len(rows) >= PAIRS_PER_BIN * DISTANCE_BINS:
            rows.sort(key=lambda row: row["distance"])
            wins = np.array([row["score_chosen"] > row["score_rejected"] for row in rows], dtype=float)
            return [float(part.mean()) for part in np.array_split(wins, DISTANCE_BINS)]
    return None


def _logged(groups: Sequence[Group]) -> list[str]:
    first = next((run for group in groups for run in group.runs if run.state == "finished"), None)
    keys = {key for row in _history(first) for key in row} if first else set()
    return [next(name for name in names if name in keys) for names in CURVES if keys.intersection(names)]


def _history(run: Run) -> list[dict[str, Any]]:
    file = run.folder / "history.jsonl"
    return read_jsonl(file) if file.is_file() else []
