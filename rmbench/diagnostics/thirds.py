"""The closest and the farthest third of pairs: one rule for training records, the probe, studies and tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Thirds(NamedTuple):
    """Indices of pairs, closest first in each; a number of pairs that 3 does not divide has its rest in the middle."""

    closest: np.ndarray
    middle: np.ndarray
    farthest: np.ndarray


def thirds(distance: np.ndarray) -> Thirds:
    """The pairs by their distances `(pairs,)`: n // 3 closest, n // 3 farthest, the others between them.

    Equal distances keep the order of the pairs. Of fewer than three pairs none is closest or farthest.
    """
    order = np.argsort(distance, kind="stable")
    size = len(order) // 3
    return Thirds(order[:size], order[size : len(order) - size], order[len(order) - size :])
