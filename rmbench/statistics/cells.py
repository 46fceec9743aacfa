"""Benchmark numbers as weighted sums of means.

Every number of every benchmark here is linear in the means of `cells`: groups of observations such as the wins of one
subset. A formula gives the weight of each cell. The difference between two models is then the same formula over the
differences of their observations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Weights = dict[str, float]  # cell -> weight
Interval = tuple[float, float]
TOO_FEW = "too few items"  # what is shown in the place of an interval


class Observation(NamedTuple):
    """One value in a cell; observations of one cluster are dependent, such as the pairs of one prompt."""

    cell: str
    cluster: str
    value: float


def sizes(observations: Iterable[Observation]) -> dict[str, int]:
    """Number of observations in each cell."""
    return dict(sorted(Counter(o.cell for o in observations).items()))


def cell_means(observations: Sequence[Observation]) -> dict[str, float]:
    """Mean of the observations in each cell."""
    totals: dict[str, float] = {}
    for o in observations:
        totals[o.cell] = totals.get(o.cell, 0.0) + o.value
    return {cell: totals[cell] / n for cell, n in sizes(observations).items()}


def estimate(means: Mapping[str, float], weights: Weights) -> float:
    """The weighted sum of the cells' means."""
    return sum(weight * means[cell] for cell, weight in weights.items())


def mean_of(parts: Iterable[Weights]) -> Weights:
    """The weights of the mean of several numbers, each given by its weights."""
    parts = list(parts)
    total: Counter[str] = Counter()
    for part in parts:
        for cell, weight in part.items():
            total[cell] += weight / len(parts)  # type: ignore[assignment]
    return dict(total)


def by_size(cells: Mapping[str, int]) -> Weights:
    """The weights of the mean over all observations, given the number of observations in each cell."""
    total = sum(cells.values())
    return {cell: n / total for cell, n in cells.items()}
