"""Intervals of benchmark numbers over items: of a score, and of the paired difference of two scores.

The variance comes from the clusters' contributions (`linear`), so it holds for many small subsets, where a bootstrap
within subsets collapses. Scores near 0 or 1, and differences that rest on few items, are not normal:

- a score is taken as a binomial share of p (1 - p) / variance items and gets Wilson's interval with a t quantile
  (Dean and Pagano, Biometrika 102, 2015, on Wilson's interval under a design effect);
- to a difference, two items are added, half of one in favour of either side (Agresti and Min, Statistics in Medicine
  24, 2005).

Where too few clusters, or too few that differ, say anything, there is no interval. `tests/test_intervals.py` simulates
how often 95 % intervals hold the truth; docs/evaluate.md says where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rmbench.statistics.cells import Interval, Observation, Weights
from rmbench.statistics.linear import linearised

LEVEL = 0.95
FEWEST_DEGREES = 4  # of freedom; below, the variance is a guess
FEWEST_CLUSTERED = 22  # the same, of a score whose items come in clusters, whose correlation is estimated too
SEVERAL = 1.5  # items of a cluster, on average, from which their correlation counts
FEWEST_DIFFERING = 6  # of five coin flips, all may agree with a probability above 5 %, so no test can say anything


@dataclass(frozen=True)
class Spread:
    """A number with the variance of its estimate.

    Args:
        value: the number.
        variance: of the number, over resamplings of the clusters.
        degrees: of freedom of `variance`, if all items vary alike.
        items: independent items of equal weight that the number would need to be as uneven in its weights.
        clusters: the same, of clusters.
        item_variance: of one item around the number.
        differing: clusters in which some value is not zero.
    """

    value: float
    variance: float
    degrees: float
    items: float
    clusters: float
    item_variance: float
    differing: int

    def of_score(self, level: float = LEVEL) -> Interval | None:
        """Interval of a mean of values between 0 and 1; None with too few clusters."""
        clustered = self.items > SEVERAL * self.clusters
        if self.degrees < (FEWEST_CLUSTERED if clustered else FEWEST_DEGREES):
            return None
        p, q = self.value, self._quantile(level)
        inside = self.variance > 0 and 0 < p < 1
        n = p * (1 - p) / self.variance if inside else self.clusters
        centre = (p + q * q / (2 * n)) / (1 + q * q / n)
        half = q / (1 + q * q / n) * math.sqrt(max(p * (1 - p), 0.0) / n + (q / (2 * n)) ** 2)
        return max(centre - half, 0.0), min(centre + half, 1.0)

    def of_mean(self, level: float = LEVEL) -> Interval | None:
        """Interval of a mean of values in any unit, by the t distribution; None with too few clusters."""
        if self.degrees < FEWEST_DEGREES:
            return None
        half = self._quantile(level) * math.sqrt(self.variance)
        return self.value - half, self.value + half

    def of_difference(self, level: float = LEVEL) -> Interval | None:
        """Interval of a mean of differences between -1 and 1; None with too few clusters."""
        if not self.tells:
            return None
        value, error = self._shrunken
        half = self._quantile(level) * error
        return value - half, value + half

    @property
    def tells(self) -> bool:
        """Whether enough clusters, and enough that differ, allow an interval of a difference."""
        return self.degrees >= FEWEST_DEGREES and self.differing >= FEWEST_DIFFERING

    @property
    def p_value(self) -> float:
        """Two-sided p-value of no difference: the level at which `of_difference` ends at zero; 1 with few clusters."""
        if not self.tells:
            return 1.0
        value, error = self._shrunken
        from scipy.stats import t as student

        return float(2 * student.sf(abs(value) / error, self.degrees)) if error > 0 else 0.0

    @property
    def _shrunken(self) -> tuple[float, float]:
        """The difference with two added items, and its standard error."""
        n = min(self.item_variance / self.variance, self.items) if self.variance > 0 else self.clusters
        square = (n * (self.variance * n + self.value**2) + 1) / (n + 2)
        value = n * self.value / (n + 2)
        return value, math.sqrt(max(square - value**2, 0.0) / (n + 2))

    def _quantile(self, level: float) -> float:
        from scipy.stats import t as student

        return float(student.isf((1 - level) / 2, self.degrees))


def spread(observations: Sequence[Observation], weights: Weights) -> Spread:
    """The weighted sum of the cells' means with its variance; cells without a weight do not count."""
    values = np.array([[o.value for o in observations]])
    return spreads(values, [o.cell for o in observations], [o.cluster for o in observations], weights)[0]


def spreads(values: np.ndarray, cells: Sequence[str], clusters: Sequence[str], weights: Weights) -> list[Spread]:
    """For each row of values, the weighted sum of the cells' means with its variance.

    Args:
        values: `(rows, observations)`.
        cells: of each observation.
        clusters: of each observation.
        weights: cell -> weight; cells without one do not count.
    """
    linear = linearised(values, cells, clusters, weights)
    variance, inverse_degrees = np.zeros(len(values)), 0.0
    squares = [float((stratum.shares**2).sum()) for stratum in linear.strata]
    for stratum, square in zip(linear.strata, squares, strict=True):
        n = len(stratum.shares)
        if n == 1:
            return [_unknown(float(value)) for value in linear.value]
        variance += n * stratum.contributions.var(axis=-1, ddof=1)
        inverse_degrees += square**2 / (n - 1)
    total = float(np.abs(linear.shares).sum())
    around = linear.observed - linear.value[:, None] / total
    item_variance = (np.abs(linear.shares) * around**2).sum(axis=-1) / total
    return [
        Spread(
            value=float(linear.value[row]),
            variance=float(variance[row]),
            degrees=sum(squares) ** 2 / inverse_degrees,
            items=total**2 / float((linear.shares**2).sum()),
            clusters=total**2 / sum(squares),
            item_variance=float(item_variance[row]),
            differing=int(linear.touched[row].sum()),
        )
        for row in range(len(values))
    ]


def _unknown(value: float) -> Spread:
    """The value with no degrees of freedom: a single cluster says nothing about its error."""
    return Spread(value, 0.0, 0.0, 1.0, 1.0, 0.0, 0)


def intervals(observations: Sequence[Observation], formula: Mapping[str, Weights]) -> dict[str, Interval | None]:
    """Number -> its interval, for observations between 0 and 1; None with too few clusters."""
    return {name: spread(observations, weights).of_score() for name, weights in formula.items() if weights}
