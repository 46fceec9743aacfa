"""rmbench compare A B: what two evaluated checkpoints differ in, and how sure that is."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from rmbench.benchmarks.formula import Formula
from rmbench.benchmarks.registry import Benchmark, rules_of
from rmbench.benchmarks.scores import HELD_OUT_FOLDER, Scored, ScoreRow, find_scores, same_items
from rmbench.console import console
from rmbench.errors import UserError
from rmbench.files import Json, refuse_unwritable, write_json
from rmbench.statistics import wording
from rmbench.statistics.cells import Observation, cell_means, estimate, sizes
from rmbench.statistics.intervals import FEWEST_DEGREES, FEWEST_DIFFERING, Spread, spread
from rmbench.statistics.paired import Discordant, holm, mcnemar

logger = logging.getLogger(__name__)

LEVEL = 0.05


def compare(first: str, second: str, benchmark: str | None = None, out: Path | None = None) -> Json:
    """Print the comparison of two run folders, results or score files; write it as JSON to `out`.

    Args:
        first, second: run folders, results.json or scores.jsonl.
        benchmark: compare only this one; None: every one that both have.
        out: a JSON file, or None.

    Raises:
        UserError: nothing was scored there, or the two have no benchmark, or not the same items, in common.
    """
    if out is not None:
        refuse_unwritable(out)
    of_first, of_second = find_scores(first, benchmark), find_scores(second, benchmark)
    names = [name for name in of_first if name in of_second]
    if not names:
        raise UserError(
            f"No benchmark that both were scored on: {first} has {', '.join(of_first)},"
            f" {second} has {', '.join(of_second)}."
        )
    compared = corrected({name: compare_scores(of_first[name], of_second[name]) for name in names})
    for name, result in compared.items():
        show(name, first, second, result)
    if out is not None:
        write_json(out, {"first": first, "second": second, "benchmarks": compared})
    return compared


@dataclass(frozen=True)
class Compared:
    """Two sides on one benchmark, before p-values are corrected for being many.

    Args:
        n: items.
        numbers: of each number its value on both sides, and what is known of the difference.
        tests: the exact test of all items and of each subset.
        clusters: independent outcomes of each of these.
    """

    n: int
    numbers: dict[str, tuple[float, float, Spread]]
    tests: dict[str, Discordant]
    clusters: dict[str, int]


def compare_scores(first: Scored, second: Scored) -> Compared:
    """Every number of both, the difference second - first, and exact tests by subset.

    Raises:
        UserError: the items are not the same, or of other subsets, or all scores of a side are NaN.
    """
    benchmark = rules_of(first.benchmark)
    ids = same_items(first, second)
    rows = [[side.rows[name] for name in ids] for side in (first, second)]
    for side, of_side in zip((first, second), rows, strict=True):
        if n_nan := sum(row.nan for row in of_side):
            if n_nan == len(of_side):
                raise UserError(f"{side.path}: every score is NaN, so there is nothing to compare.")
            logger.warning("%s: %d rows with a NaN score count as losses", side.path, n_nan)
    observed = [benchmark.observations(side) for side in rows]
    changes = [
        Observation(a.cell, a.cluster, b.value - a.value) for a, b in zip(*observed, strict=True)
    ]  # a number of these is the difference of the numbers: all are linear
    cells = sizes(changes)
    formula: Formula = benchmark.formula(cells)
    subsets = sorted({row.subset for row in rows[0]} & cells.keys())
    numbers = {name: weights for name, weights in formula.numbers(subsets).items() if weights}
    if not all(formula.sections.values()):  # a section is absent
        numbers = {name: weights for name, weights in numbers.items() if name not in formula.whole}
    a, b = (cell_means(side) for side in observed)
    return Compared(
        len(ids),
        {name: (estimate(a, w), estimate(b, w), spread(changes, w)) for name, w in numbers.items()},
        *tests(benchmark, *rows),
    )


def corrected(compared: Mapping[str, Compared]) -> dict[str, Json]:
    """Benchmark -> its numbers and tests as JSON, p-values corrected by Holm over all benchmarks together.

    The numbers that are shown are one family, the subsets' exact tests are another.
    """
    of_numbers = holm(
        {
            (name, number): found.p_value
            for name, one in compared.items()
            for number, (_, _, found) in one.numbers.items()
            if _shown(number, one.numbers)
        }
    )
    of_tests = holm(
        {
            (name, group): test.p_value
            for name, one in compared.items()
            for group, test in one.tests.items()
            if group != "all"
        }
    )
    return {
        name: {
            "n": one.n,
            "numbers": {
                number: {"first": a, "second": b, **_difference(found, of_numbers.get((name, number)))}
                for number, (a, b, found) in one.numbers.items()
            },
            "tests": {
                group: {
                    "clusters": one.clusters[group],
                    "first_better": test.first,
                    "second_better": test.second,
                    "p_value": test.p_value,
                    "p_holm": of_tests.get((name, group)),
                }
                for group, test in one.tests.items()
            },
        }
        for name, one in compared.items()
    }


def _shown(name: str, among: Container[str]) -> bool:
    """Subsets have a table of their own; the mean of the sections that are there stands in for a score."""
    return not name.startswith("subsets/") and not (name == "mean_of_present_sections" and "score" in among)


def _difference(found: Spread, p_holm: float | None) -> Json:
    """The difference second - first: its value, interval, p-values and what they say."""
    interval = found.of_difference()
    return {
        "difference": found.value,
        "interval": None if interval is None else list(interval),
        "p_value": found.p_value if found.tells else None,
        "p_holm": p_holm if found.tells else None,
        "differing": found.differing,
        "verdict": verdict(found, p_holm),
    }


def tests(
    benchmark: Benchmark, first: Sequence[ScoreRow], second: Sequence[ScoreRow]
) -> tuple[dict[str, Discordant], dict[str, int]]:
    """Exact McNemar over all items and by subset, clusters as one outcome; and how many clusters each has."""
    groups: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for a, b in zip(first, second, strict=True):
        for group in ("all", f"subset {a.subset}"):
            groups[group][a.source].append((benchmark.credit(a), benchmark.credit(b)))
    tested = {
        group: mcnemar({name: _mean(pairs) for name, pairs in clusters.items()}) for group, clusters in groups.items()
    }
    return tested, {group: len(clusters) for group, clusters in groups.items()}


def _mean(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)


def verdict(found: Spread, p_holm: float | None) -> str:
    """The verdict on the second side, corrected for all numbers that are shown; or why there is none."""
    if found.degrees < FEWEST_DEGREES:
        return wording.FEW_ITEMS
    if found.differing < FEWEST_DIFFERING:
        return wording.few_differ(found.differing)
    if p_holm is None or p_holm >= LEVEL:
        return wording.NOT_DISTINGUISHABLE
    return wording.BETTER if found.value > 0 else wording.WORSE


def sentences(place: str, result: Json) -> list[str]:
    """The results as text: `second - first on rewardbench: +2.1 points [0.4, 3.9], 2,985 items: better`.

    Args:
        place: what was scored.
        result: its numbers; without a score, there is a sentence for each of its sections.
    """
    numbers = result["numbers"]
    told = {place: numbers["score"]} if "score" in numbers else {
        f"{place} {name.removeprefix('sections/')}": number
        for name, number in numbers.items()
        if name.startswith("sections/")
    }  # fmt: skip
    lines = []
    for where, one in told.items():
        interval = f" {wording.points_interval(*one['interval'])}" if one["interval"] else ""
        by_correction = one["verdict"] == wording.NOT_DISTINGUISHABLE and one["p_value"] < LEVEL
        word = one["verdict"] + (wording.CORRECTED if by_correction else "")
        points = f"{wording.points(one['difference'])} points{interval}"
        lines.append(f"second - first on {where}: {points}, {result['n']:,} items: {word}")
    return lines


def show(name: str, first: str, second: str, result: Json) -> None:
    """Print both numbers and their difference, then the subsets with their tests.

    Args:
        name: of the benchmark.
        first: what was compared, as it was named.
        second: the other.
        result: the numbers, as `compare` forms them.
    """
    terminal = console()
    terminal.print(f"first:  {first}\nsecond: {second}", soft_wrap=True)
    place = "held-out pairs" if name == HELD_OUT_FOLDER else name
    title = f"{place}: {result['n']:,} items; difference = second - first, in points; verdicts corrected (Holm)"
    table = Table(title=title)
    for column in ("", "first", "second", "difference", "95 % interval", "verdict"):
        table.add_column(column, justify="left" if column in ("", "verdict") else "right")
    for path, number in result["numbers"].items():
        if not _shown(path, result["numbers"]):
            continue
        interval = number["interval"]
        table.add_row(
            path.removeprefix("sections/").replace("_", " ").replace("/", ": "),
            f"{number['first']:.3f}",
            f"{number['second']:.3f}",
            wording.points(number["difference"]),
            wording.points_interval(*interval) if interval else "-",
            number["verdict"],
            style="bold" if path == "score" else "",
        )
    terminal.print(table)
    for sentence in sentences(place, result):
        terminal.print(sentence, soft_wrap=True)
    exact = Table(title="exact McNemar test; p of a subset corrected over all subsets (Holm)")
    for column in ("", "independent outcomes", "only first right", "only second right", "p", "p (Holm)"):
        exact.add_column(column, justify="right" if column else "left")
    for group, test in result["tests"].items():
        corrected = "" if test["p_holm"] is None else f"{test['p_holm']:.3g}"
        counts = (str(test[key]) for key in ("clusters", "first_better", "second_better"))
        style = "bold" if (test["p_holm"] or 1) < LEVEL else ""
        exact.add_row(group.removeprefix("subset "), *counts, f"{test['p_value']:.3g}", corrected, style=style)
    terminal.print(exact)
