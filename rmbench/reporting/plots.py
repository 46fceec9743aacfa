"""What the figures of a report show: differences from the baseline, gradients, accuracy by distance, curves."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from scipy.stats import rankdata

from rmbench.benchmarks.scores import HELD_OUT_FOLDER
from rmbench.diagnostics.equal_error import correlation_of_steps
from rmbench.files import Json, read_json, read_jsonl
from rmbench.history import read_history
from rmbench.reporting import drawing
from rmbench.reporting.collect import TORN, Group, Run
from rmbench.reporting.drawing import Bar, Line, Panel
from rmbench.reporting.verdicts import Verdict

# a curve of each, under the first of its names that was logged, with what it is
CURVES: dict[tuple[str, ...], str] = {
    ("benchmark/score", "benchmark/micro_accuracy"): "benchmark/score",
    ("eval/accuracy",): "held-out accuracy",
    ("eval/loss",): "held-out loss, -log σ(margin) for every run",
}
DISTANCE_BINS = 5
BIN_NAMES = ("closest", "2nd", "3rd", "4th", "farthest")
PAIRS_PER_BIN = 10  # fewer are too noisy
MOST_PANELS = 12  # of gradient against distance


@dataclass(frozen=True)
class Chart:
    """A figure of a report: base name of its files, function that draws it, caption; `wide` takes the page's width."""

    name: str
    draw: Callable[[], Figure]
    caption: str
    wide: bool = False


def figures(groups: Sequence[Group], verdicts: Sequence[Verdict]) -> list[Chart]:
    """All charts for which there are numbers."""
    charts = [differences(verdicts), gradients(groups), by_distance(groups)]
    charts += [curve(groups, key) for key in _logged(groups)]
    return [chart for chart in (*charts, *training_losses(groups)) if chart is not None]


def differences(verdicts: Sequence[Verdict]) -> Chart | None:
    """A forest plot of all verdicts; None without an interval."""
    known = [v for v in verdicts if v.known]
    if not known:
        return None
    names = list(dict.fromkeys(v.group for v in verdicts))
    bars = []
    for v in known:
        low, high = v.interval
        text = f"{v.group}: {v.place}"
        bars.append(Bar(text, 100 * v.difference.value, 100 * low, 100 * high, names.index(v.group), v.word))
    baselines = " and ".join(dict.fromkeys(v.baseline for v in verdicts))
    draw = partial(drawing.forest, bars, f"difference from {baselines} in points of accuracy")
    return Chart("differences", draw, f"Difference from {baselines}, with 95 % intervals over seeds and items.", True)


def gradients(groups: Sequence[Group]) -> Chart | None:
    """Gradient norm against distance of one run of each group, side by side on one scale; None without records."""
    found = [(group, *recorded) for group in groups if (recorded := _recorded(group)) is not None]
    if not found:
        return None
    # exact norms only where every run measured them
    exact = all(np.isfinite(columns["gradient_norm"]).all() for _, _, columns in found)
    norm, part = ("gradient_norm", "all parameters") if exact else ("head_gradient_norm", "head")
    panels = [
        Panel(
            group.label,
            columns["distance"],
            columns[norm],
            columns["prediction_error"],
            correlation_of_steps(columns, norm),
        )
        for group, _, columns in found[:MOST_PANELS]
        if np.isfinite(columns[norm]).all()
    ]
    if not panels:
        return None
    seeds = " and ".join(dict.fromkeys(run.seed for _, run, _ in found[:MOST_PANELS]))
    left_out = f" The first {MOST_PANELS} of {len(found)} settings." if len(found) > MOST_PANELS else ""
    caption = (
        f"Gradient norm of the recorded pairs ({part}; about {drawing.SHOWN_PAIRS} are drawn) against the distance of "
        "their two embeddings, as trained, seed "
        f"{seeds}; all panels on one scale, pairs above it marked and counted. In the titles: rank correlation at "
        f"equal prediction error, 0 where distance plays no part.{left_out}"
    )
    return Chart("gradient_against_distance", partial(drawing.gradients, panels, part), caption, True)


def _recorded(group: Group) -> tuple[Run, dict[str, np.ndarray]] | None:
    """The first run of the group with recorded pairs, and its columns `(pairs,)`; None without one."""
    for run in group.by_seed().values():
        file = run.folder / "diagnostics" / "pairs.parquet"
        try:
            table = pq.read_table(
                file, columns=["step", "distance", "prediction_error", "head_gradient_norm", "gradient_norm"]
            )
        except TORN:  # pyarrow's errors are among them
            continue
        columns = {name: table[name].to_numpy(zero_copy_only=False).astype(float) for name in table.column_names}
        if len(table) and np.isfinite(columns["head_gradient_norm"]).all():
            return run, columns
    return None


def by_distance(groups: Sequence[Group]) -> Chart | None:
    """Accuracy by fifths of the distance between the two embeddings; None without enough pairs."""
    placed, by_group = accuracies_by_distance(groups)
    if not by_group:
        return None
    series = [
        _line(groups[place].label, range(DISTANCE_BINS), np.array(bins).T, place) for place, bins in by_group.items()
    ]
    caption = (
        "Accuracy by the distance between the two responses' embeddings; pairs are grouped by their mean rank under "
        f"{placed}, every loss alike, since a run's errors are among its own closest pairs. Point: mean over seeds, "
        "bar: range."
    )
    return Chart("accuracy_by_distance", partial(drawing.fifths, series, BIN_NAMES), caption)


def accuracies_by_distance(groups: Sequence[Group]) -> tuple[str, dict[int, list[list[float]]]]:
    """Which runs group the pairs, as text; index of a group -> per seed the accuracy in each fifth, closest first.

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


def curve(groups: Sequence[Group], key: str) -> Chart | None:
    """A logged number over the steps, held-out accuracy with the value after the last step; None without a curve."""
    label = next((label for names, label in CURVES.items() if key in names), key)
    series = []
    for place, group in enumerate(groups):
        by_step = values_by_step(group, key)
        if by_step:
            series.append(_line(group.label, sorted(by_step), [by_step[step] for step in sorted(by_step)], place))
    if not any(len(line.x) > 1 for line in series):
        return None
    name = re.sub(r"\W+", "_", key)
    return Chart(
        name, partial(drawing.lines, series, label), f"{label} over training; line: mean over seeds, band: range."
    )


def values_by_step(group: Group, key: str) -> dict[int, list[float]]:
    """Step -> the value of each run that logged one at this step."""
    by_step: dict[int, list[float]] = {}
    for run in group.runs:
        rows = read_history(run.folder)
        known = {row["step"]: float(row[key]) for row in rows if "step" in row and _finite(row.get(key))}
        if key == "eval/accuracy" and known and run.state == "finished":
            metrics = read_json(run.folder / "metrics.json")
            known[metrics["steps"]] = metrics["eval"]["accuracy"]
        for step, value in known.items():
            by_step.setdefault(step, []).append(value)
    return by_step


def training_losses(groups: Sequence[Group]) -> list[Chart]:
    """Charts of the smoothed training loss; one per definition of the loss, as their values cannot be compared."""
    by_definition: dict[str, list[Line]] = {}
    losses: dict[str, list[str]] = {}
    for place, group in enumerate(groups):
        by_step = values_by_step(group, "train/loss")
        if len(by_step) > 1:
            steps = sorted(by_step)
            line = _line(group.label, steps, [by_step[step] for step in steps], place)
            definition = _definition(group)
            by_definition.setdefault(definition, []).append(line)
            losses.setdefault(definition, []).append(group.runs[0].parts[0])
    charts: dict[str, Chart] = {}
    for definition, series in by_definition.items():
        name, title = "training_loss", "training loss"
        if len(by_definition) > 1:  # each is named by the losses that it shows
            names = list(dict.fromkeys(losses[definition]))
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            name, title = _free(f"training_loss_{names[0]}", charts), f"training loss of {', '.join(names[:2])}{more}"
        caption = f"T{title[1:]}: {definition}, smoothed; line: mean over seeds, band: range."
        draw = partial(drawing.lines, [line.smooth() for line in series], title)
        charts[name] = Chart(name, draw, caption)
    return list(charts.values())


def _free(name: str, taken: Container[str]) -> str:
    """The name, with a number appended if it is taken: one loss with other settings is another definition."""
    numbered = (f"{name}_{i}" for i in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def _definition(group: Group) -> str:
    """The formula of the loss of the group's runs; the overrides of the loss if no run recorded it."""
    for run in group.runs:
        try:
            loss: Json = (read_json(run.folder / "environment.json") or {})["loss"]
            weight = f" with w = {loss['weight']}" if loss.get("weight") else ""
            return f"{loss['formula']}{weight}"
        except TORN:
            continue
    return ", ".join(f"{key}={value}" for key, value in group.overrides.items() if key.startswith("loss")) or "bt"


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _line(label: str, x: Iterable[float], columns: Sequence[Sequence[float]] | np.ndarray, series: int) -> Line:
    """A curve of mean and range over seeds at each x.

    Args:
        label: in the legend.
        x: of each point.
        columns: the values of every seed at each point.
        series: which colour, marker and dashes.
    """
    means, lows, highs = ([float(f(column)) for column in columns] for f in (np.mean, np.min, np.max))
    return Line(label, list(x), means, lows, highs, series)


@dataclass(frozen=True)
class Pairs:
    """Pairs of a score file, `(pairs,)` each: names, ranks of the distances, 1 where the chosen response wins."""

    items: tuple[str, ...]
    ranks: np.ndarray
    right: np.ndarray


def _pairs(run: Run) -> Pairs | None:
    """The pairs of a benchmark, or else of the held-out pairs; None if they are too few."""
    for file in sorted(run.folder.glob("eval/*/scores.jsonl"), key=lambda f: f.parent.name == HELD_OUT_FOLDER):
        rows = [row for row in read_jsonl(file) if "score_chosen" in row and row.get("distance") is not None]
        if len(rows) >= PAIRS_PER_BIN * DISTANCE_BINS:
            right = np.array([row["score_chosen"] > row["score_rejected"] for row in rows], dtype=float)
            names = (file.parent.name, *(str(row["id"]) for row in rows))
            return Pairs(names, rankdata([row["distance"] for row in rows]), right)
    return None


def _logged(groups: Sequence[Group]) -> list[str]:
    finished = [run for group in groups for run in group.runs if run.state == "finished"]
    keys = {key for run in finished for row in read_history(run.folder) for key in row}
    return [next(name for name in names if name in keys) for names in CURVES if keys.intersection(names)]
