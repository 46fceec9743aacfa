"""Best of N: what a proxy's choice among N responses is worth, as a gold score sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rmbench.files import Json
from rmbench.statistics.cells import Observation
from rmbench.statistics.intervals import spread


def expected_gold(proxy: Sequence[float], gold: Sequence[float], n: int) -> float:
    """Mean gold score of the response with the highest proxy score among `n` of them, over all choices of n.

    Exact, without sampling: of M responses the k-th best by proxy is the choice of C(M - k, n - 1) of the C(M, n)
    subsets (the unbiased estimator of arXiv 2112.09332). Equal proxy scores share their gold scores' mean; a
    NaN is below everything.

    >>> expected_gold([3.0, 1.0, 2.0], [0.0, 6.0, 3.0], 2)  # {3,1} and {3,2} choose 0, {1,2} chooses 3
    1.0
    """
    scores = np.nan_to_num(np.asarray(proxy, float), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    values = np.asarray(gold, float)
    for tied in np.unique(scores):
        values = np.where(scores == tied, values[scores == tied].mean(), values)
    ordered = values[np.argsort(-scores, kind="stable")]
    m = len(ordered)
    chances = [math.comb(m - k, n - 1) / math.comb(m, n) for k in range(1, m - n + 2)]
    return float(np.dot(chances, ordered[: len(chances)]))


def curve(prompts: Sequence[tuple[Sequence[float], Sequence[float]]], best_of: int) -> list[Json]:
    """Gold score of the chosen response for N = 1, 2, 4, ... up to `best_of`, with a t-interval over prompts.

    Args:
        prompts: proxy and gold scores of each prompt's responses.
        best_of: the largest N.

    Returns:
        For each N: n, prompts (those with N responses or more), kl = log N - (N - 1) / N in nats, gold,
        interval, which is None for fewer than five prompts.
    """
    sizes = sorted({2**k for k in range(best_of.bit_length())} | {best_of})
    points = []
    for n in (size for size in sizes if size <= best_of):
        values = [
            Observation("gold", str(i), expected_gold(proxy, gold, n))
            for i, (proxy, gold) in enumerate(prompts)
            if len(proxy) >= n
        ]
        if values:
            found = spread(values, {"gold": 1.0})
            interval = found.of_mean()
            point = {"n": n, "prompts": len(values), "kl": math.log(n) - (n - 1) / n, "gold": found.value}
            points.append({**point, "interval": None if interval is None else list(interval)})
    return points
