"""Two losses compared over seeds and items at once: how far apart, how sure, and what more seeds would give.

A difference between two losses varies with the seed and with the items it is measured on; an interval that knows only
one of them is too short. Seeds and items are crossed: every seed's models are scored on the same items, and both
losses of one seed have the same first weights and the same order of pairs. The difference d of seed s on item i is
taken as mean + a_s + b_i + e_si, all three random, and the mean gets a t-interval whose variance is the sum of the
three parts and whose degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946). The percentile bootstrap
over both covers too little with few seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Stratum:
    """Items that are drawn together: contributions of each to the number, per seed.

    `contributions` `(seeds, items)`: what an item adds to the number, less its share of the mean, so that each seed's
    row sums to zero.
    """

    contributions: np.ndarray


@dataclass(frozen=True)
class Difference:
    """A mean difference over seeds and items with what it rests on. `seed_variance` and `item_variance` are the parts
    of its variance that go away with more seeds, for one seed, and with more items.

    With one seed the interval speaks of the items alone.
    """

    value: float
    standard_error: float
    degrees: float
    seeds: int
    items: int
    seed_variance: float
    item_variance: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Two-sided t-interval."""
        half = float(student.ppf((1 + level) / 2, self.degrees)) * self.standard_error
        return self.value - half, self.value + half

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference; 1 where nothing varies and nothing differs."""
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * student.sf(abs(self.value) / self.standard_error, self.degrees))

    @property
    def resolution(self) -> float:
        """The smallest true difference that these seeds and items would show in four of five such experiments."""
        return _detectable(self.standard_error, self.degrees)

    def seeds_for(self, difference: float) -> int | None:
        """How many seeds would resolve `difference` on these items; None if no number of seeds does.

        Raises:
            ValueError: one seed says nothing about how seeds vary.
        """
        if self.seeds < 2:
            raise ValueError("one seed says nothing about how seeds vary")
        for seeds in range(2, MOST_SEEDS + 1):
            error = math.sqrt(self.seed_variance / seeds + self.item_variance)
            if _detectable(error, self._degrees_with(seeds)) <= difference:
                return seeds
        return None

    def _degrees_with(self, seeds: int) -> float:
        """Satterthwaite's, if the two parts stayed as they are."""
        seed_part, item_part = self.seed_variance / seeds, self.item_variance
        whole = seed_part + item_part
        if whole == 0:
            return math.inf
        return whole**2 / (seed_part**2 / (seeds - 1) + item_part**2 / max(self.items - 1, 1))


def difference_over_seeds(
    values: np.ndarray, cells: Sequence[str], clusters: Sequence[str], weights: dict[str, float]
) -> Difference:
    """The difference of two losses in a number that is a weighted sum of the means of cells.

    Args:
        values: `(seeds, observations)`, the first loss's credit less the second's, the same observations for each seed.
        cells: the cell of each observation, such as its subset.
        clusters: its source; observations of one source vary together (HumanEval's six languages of one task).
        weights: cell -> weight in the number; cells without a weight do not count.
    """
    counted = np.array([cell in weights for cell in cells], dtype=bool)
    values = np.asarray(values, dtype=float)[:, counted]
    cell_names = [cell for cell, kept in zip(cells, counted, strict=True) if kept]
    cluster_names = [cluster for cluster, kept in zip(clusters, counted, strict=True) if kept]
    n_seeds = len(values)
    share, centred, per_seed = _linearised(values, cell_names, weights)
    strata = [
        Stratum(_summed(share[inside] * centred[:, inside], [cluster_names[i] for i in inside]))
        for inside in _strata(cell_names, cluster_names)
    ]
    return _crossed(per_seed, strata, n_seeds)


def _linearised(
    values: np.ndarray, cells: list[str], weights: dict[str, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each observation's share of the number, its distance from its cell's mean by seed, and the number by seed."""
    share = np.zeros(len(cells))
    centred = np.empty_like(values)
    per_seed = np.zeros(len(values))
    names = np.array(cells)
    for cell in sorted(set(cells)):
        inside = names == cell
        mean = values[:, inside].mean(axis=1, keepdims=True)
        share[inside] = weights[cell] / inside.sum()
        centred[:, inside] = values[:, inside] - mean
        per_seed += weights[cell] * mean[:, 0]
    return share, centred, per_seed


def _crossed(per_seed: np.ndarray, strata: list[Stratum], n_seeds: int) -> Difference:
    """Variance components of seeds, items and their interaction; each at least zero."""
    items = sum(stratum.contributions.shape[1] for stratum in strata)
    terms: list[tuple[float, float]] = []  # (signed variance of the mean, degrees of freedom)
    item_variance = interaction = 0.0
    for stratum in strata:
        table = stratum.contributions
        n = table.shape[1]
        if n < 2:
            continue
        means = table.mean(axis=0)
        between = n * float(means.var(ddof=1))
        terms.append((between, n - 1))
        within = 0.0
        if n_seeds > 1:
            within = n * float(((table - means) ** 2).sum() / ((n_seeds - 1) * (n - 1)))
            terms.append((-within / n_seeds, (n_seeds - 1) * (n - 1)))
        item_variance += max(between - within / n_seeds, 0.0)
        interaction += within
    seed_variance = float(per_seed.var(ddof=1)) if n_seeds > 1 else 0.0
    if seed_variance >= interaction:
        degrees = n_seeds - 1
    else:  # by chance the seeds agree better than items within a seed allow, which are known far better
        seed_variance, degrees = interaction, 2 * (n_seeds - 1)  # all of theirs would cover too little (simulated)
    terms.append((seed_variance / n_seeds, max(degrees, 1)))
    variance = seed_variance / n_seeds + item_variance
    spread = sum(term**2 / degrees for term, degrees in terms)
    return Difference(
        value=float(per_seed.mean()),
        standard_error=math.sqrt(variance),
        degrees=variance**2 / spread if spread > 0 else math.inf,
        seeds=n_seeds,
        items=items,
        seed_variance=seed_variance,
        item_variance=item_variance,
    )


def _strata(cells: list[str], clusters: list[str]) -> list[list[int]]:
    """Observations by the group of cells that share clusters."""
    parent = {cell: cell for cell in cells}

    def root(cell: str) -> str:
        """The name of the cell's group."""
        while parent[cell] != cell:
            cell = parent[cell]
        return cell

    first: dict[str, str] = {}
    for cell, cluster in zip(cells, clusters, strict=True):
        parent[root(cell)] = root(first.setdefault(cluster, cell))
    groups: dict[str, list[int]] = {}
    for i, cell in enumerate(cells):
        groups.setdefault(root(cell), []).append(i)
    return list(groups.values())


def _summed(contributions: np.ndarray, clusters: list[str]) -> np.ndarray:
    """`(seeds, observations)` -> `(seeds, clusters)`."""
    names, place = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(contributions), len(names)))
    np.add.at(sums.T, place, contributions.T)
    return sums


def _detectable(standard_error: float, degrees: float) -> float:
    quantiles = student.ppf((1 + LEVEL) / 2, degrees) + student.ppf(POWER, degrees)
    return float(quantiles) * standard_error
