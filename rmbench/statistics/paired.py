"""Tests on paired outcomes of two models, and their correction for being many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

Name = TypeVar("Name")


class Discordant(NamedTuple):
    """How many items only the first, and only the second model ranks correctly; with the exact test of these counts."""

    first: int
    second: int
    p_value: float


def mcnemar(outcomes: Mapping[str, tuple[float, float]]) -> Discordant:
    """Exact McNemar test: if neither model is better, items on which they differ fall either way with probability 1/2.

    Args:
        outcomes: item -> credit of the first and of the second model. Credits may be fractions, or means over the
            items of a cluster; then this is the exact sign test, which McNemar's is for outcomes of 0 and 1.
    """
    first = sum(a > b for a, b in outcomes.values())
    second = sum(b > a for a, b in outcomes.values())
    return Discordant(first, second, exact_p(first, second))


def exact_p(first: int, second: int) -> float:
    """Two-sided binomial p-value of `first` against `second` at probability 1/2; 1 if both are 0."""
    from scipy.stats import binomtest

    return float(binomtest(first, first + second).pvalue) if first + second else 1.0


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """p-values corrected by Holm's step-down rule, valid under any dependence.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    corrected: dict[Name, float] = {}
    largest = 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda entry: entry[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - place)))
        corrected[name] = largest
    return corrected
