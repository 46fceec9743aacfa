"""How a benchmark's numbers follow from its score rows: observations in cells, a formula over the cells' means."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rmbench.benchmarks.scores import ScoreRow, comparisons
from rmbench.files import Json
from rmbench.statistics import calibration as calibrate
from rmbench.statistics.cells import Observation, Weights, cell_means, estimate, mean_of, sizes
from rmbench.statistics.intervals import intervals as intervals_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Formula:
    """Each number of a benchmark as weights over the cells; a section without weights has no rows.

    Args:
        sections: the parts of the score, in the benchmark's order.
        score: the benchmark's official number.
        others: further numbers, by key of results.json.
        whole: keys of the numbers that are absent where a section is, or where a score is NaN.
    """

    sections: dict[str, Weights]
    score: Weights
    others: dict[str, Weights] = field(default_factory=dict)
    whole: tuple[str, ...] = ("score",)

    def numbers(self, subsets: Sequence[str]) -> dict[str, Weights]:
        """Path in results.json -> weights of the number."""
        return {
            "score": self.score,
            "mean_of_present_sections": mean_of(w for w in self.sections.values() if w),
            **{f"sections/{name}": weights for name, weights in self.sections.items()},
            **self.others,
            **{f"subsets/{name}": {name: 1.0} for name in subsets},
        }


def strict_wins(row: ScoreRow) -> float:
    """1 if the lowest correct response scores above the highest other one; a tie or a NaN is 0."""
    return float(not row.nan and min(row.right) > max(row.wrong))


def nothing_further(rows: Sequence[ScoreRow]) -> Json:
    """An empty dict: every number of the benchmark is a mean."""
    return {}


def subset_observations(rows: Sequence[ScoreRow], credit: Callable[[ScoreRow], float]) -> list[Observation]:
    """Each row's credit as an observation of its subset."""
    return [Observation(row.subset, row.source, credit(row)) for row in rows]


def results(benchmark: Any, rows: Sequence[ScoreRow], compat: bool = False, intervals: bool = True) -> Json:
    """The content of results.json without provenance, from score rows only.

    An absent section is None and so is the score then, with a `reason`; under `compat` it counts 0, as RewardBench's
    tools have it. With a NaN score, no score is reported.

    Args:
        benchmark: an entry of the registry.
        rows: of scores.jsonl, in any order.
        compat: an absent section counts 0.
        intervals: with confidence intervals, which take the most time.
    """
    observations = benchmark.observations(rows)
    cells = sizes(observations)
    formula: Formula = benchmark.formula(cells)
    subsets = [name for name in sorted({row.subset for row in rows}) if name in cells]
    numbers = formula.numbers(subsets)
    means = cell_means(observations)
    values = {name: estimate(means, weights) if weights else None for name, weights in numbers.items()}
    absent = [name for name, weights in formula.sections.items() if not weights]
    n_nan, n_infinite = sum(row.nan for row in rows), _infinite(rows)
    if n_infinite:
        logger.warning(
            "%d rows with an infinite score, which is above or below all others, as in RewardBench", n_infinite
        )
    reasons = [f"no rows for {', '.join(absent)}"] * bool(absent and not compat)
    reasons += [f"{n_nan} rows with a NaN score"] * bool(n_nan)
    if reasons:
        values |= {name: None for name in formula.whole if name in values}
    elif compat:
        values |= {f"sections/{name}": 0.0 for name in absent}
    found = intervals_of(observations, numbers) if intervals else {}
    known = {name: interval and list(interval) for name, interval in found.items() if values[name] is not None}
    return {
        "score": values.pop("score"),
        "reason": "; ".join(reasons) or None,
        **_nested(values),
        "intervals": known,
        **counts(benchmark, rows),
        **margins(rows),
        **benchmark.further(rows),
    }


def counts(benchmark: Any, rows: Sequence[ScoreRow]) -> Json:
    """Counts over the rows: items by subset, ties, equal texts, NaN and infinite scores; and the mean credit."""
    per_subset: dict[str, int] = {}
    for row in rows:
        per_subset[row.subset] = per_subset.get(row.subset, 0) + 1
    return {
        "n": len(rows),
        "n_subset": dict(sorted(per_subset.items())),
        "ties": sum(bool({*row.right} & {*row.wrong}) for row in rows),
        "identical": sum(row.identical for row in rows),
        "nan": sum(row.nan for row in rows),
        "infinite": _infinite(rows),
        "micro_accuracy": sum(benchmark.credit(row) for row in rows) / len(rows),
    }


def _infinite(rows: Sequence[ScoreRow]) -> int:
    return sum(not row.finite and not row.nan for row in rows)


def margins(rows: Sequence[ScoreRow]) -> Json:
    """Calibration, spread, length bias and accuracy by distance over all pairs of a correct and another response."""
    of = comparisons(rows)
    if not len(of.margin):
        return {}
    known_length, known_distance = of.chosen_characters >= 0, of.distance >= 0
    lengths = (of.margin[known_length], of.chosen_characters[known_length], of.rejected_characters[known_length])
    return {
        "comparisons": len(of.margin),
        "calibration": calibrate.calibration(of.margin),
        "margin": calibrate.distribution(of.margin),
        "length_bias": calibrate.length_bias(*lengths) if known_length.any() else None,
        "distance_bins": calibrate.binned_accuracy(of.margin[known_distance], of.distance[known_distance])
        if known_distance.any()
        else None,
    }


def _nested(values: Json) -> Json:
    """Keys such as `a/b` as nested dicts: {a: {b: ...}}."""
    tree: Json = {}
    for path, value in values.items():
        name, _, rest = path.partition("/")
        if rest:
            tree.setdefault(name, {})[rest] = value
        else:
            tree[name] = value
    return tree
