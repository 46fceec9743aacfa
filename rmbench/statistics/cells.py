"""Benchmark numbers as weighted sums of means, and bootstrap intervals carried through the weighting.

Every number of every benchmark here is linear in the means of `cells`: groups of observations such as the wins of one
subset. A formula gives the weight of each cell. The difference between two models is then the same formula over the
differences of their observations, so a paired interval needs no code of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

REPLICATES = 2000
LEVEL = 0.95
# Multinomial counts are drawn for so many replicates at once, so that memory stays small.
_CHUNK = 200

Weights = dict[str, float]  # cell -> weight
Interval = tuple[float, float]


class Observation(NamedTuple):
    """One value in a cell; observations of one cluster come from one source and are resampled together."""

    cell: str
    cluster: str
    value: float


def sizes(observations: Iterable[Observation]) -> dict[str, int]:
    """Observations in each cell."""
    return dict(sorted(Counter(o.cell for o in observations).items()))


def cell_means(observations: Sequence[Observation]) -> dict[str, float]:
    """Mean of each cell."""
    totals: dict[str, float] = {}
    for o in observations:
        totals[o.cell] = totals.get(o.cell, 0.0) + o.value
    return {cell: totals[cell] / n for cell, n in sizes(observations).items()}


def estimate(means: Mapping[str, float], weights: Weights) -> float:
    """The number that `weights` forms of the cells' means."""
    return sum(weight * means[cell] for cell, weight in weights.items())


def mean_of(parts: Iterable[Weights]) -> Weights:
    """The weights of the plain mean of several numbers."""
    parts = list(parts)
    total: Counter[str] = Counter()
    for part in parts:
        for cell, weight in part.items():
            total[cell] += weight / len(parts)  # type: ignore[assignment]
    return dict(total)


def by_size(cells: Mapping[str, int]) -> Weights:
    """The weights of the mean over all observations of some cells, given how many each has."""
    total = sum(cells.values())
    return {cell: n / total for cell, n in cells.items()}


def bootstrap(
    observations: Sequence[Observation],
    formula: Mapping[str, Weights],
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Percentile intervals of all numbers: clusters are drawn with replacement, cells keep their weights.

    Stratified: clusters are drawn apart for each set of cells that share clusters (RewardBench's six languages of one
    HumanEval task are one such set, its other subsets one each). A number without cells has no interval.

    Returns:
        number -> (low, high); equal bounds where nothing varies, as with 28 wins of 28.
    """
    numbers = [name for name, weights in formula.items() if weights]
    cells = sorted({o.cell for o in observations})
    if not numbers or not observations:
        return {}
    matrix = np.array([[formula[name].get(cell, 0.0) for name in numbers] for cell in cells])
    rng = np.random.default_rng(seed)
    drawn = np.zeros((replicates, len(numbers)))
    for inside, sums, counts in _strata(observations, cells):
        for start in range(0, replicates, _CHUNK):
            n = min(_CHUNK, replicates - start)
            weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=n)
            totals, drawn_n = weights @ sums, weights @ counts
            drawn[start : start + n] += (totals / np.maximum(drawn_n, 1)) @ matrix[inside]
            # none of a cell's few clusters was drawn: this replicate says nothing of the numbers that need the cell
            drawn[start : start + n][(drawn_n == 0) @ (matrix[inside] != 0)] = np.nan
    tail = (1 - level) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    return {name: (float(lo), float(hi)) for name, lo, hi in zip(numbers, low, high, strict=True)}


def _strata(
    observations: Sequence[Observation], cells: list[str]
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cells that hang together by shared clusters: their indices, and `(clusters, cells)` sums and counts."""
    clusters = sorted({o.cluster for o in observations})
    column = {cell: i for i, cell in enumerate(cells)}
    row = {cluster: i for i, cluster in enumerate(clusters)}
    at = (np.array([row[o.cluster] for o in observations]), np.array([column[o.cell] for o in observations]))
    shape = (len(clusters), len(cells))
    counts = coo_array((np.ones(len(observations)), at), shape).tocsr()
    sums = coo_array((np.array([o.value for o in observations]), at), shape).tocsr()
    n, label = connected_components(counts.T @ counts, directed=False)
    for part in range(n):
        inside = np.flatnonzero(label == part)
        members = np.flatnonzero(counts[:, inside].sum(axis=1) > 0)
        yield inside, sums[members][:, inside].toarray(), counts[members][:, inside].toarray()
