"""A model's scores of token sequences, so that benchmarks that share some do not score them twice."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence

from rmbench.data.text import TokenItem
from rmbench.modeling.scoring import ItemScores


class ScoreMemory:
    """One model's rewards of token sequences and distances of pairs of sequences, by hashes of the token ids."""

    def __init__(self) -> None:
        self._rewards: dict[bytes, float] = {}
        self._distances: dict[bytes, float] = {}

    def recalled(self, items: Sequence[TokenItem], layout: str) -> dict[int, ItemScores]:
        """Index of an item -> its scores, for items whose rewards and distances are all known.

        Args:
            items: of a benchmark.
            layout: name of that under which it is scored; others differ by rounding.
        """
        if not self._rewards:
            return {}
        found = {i: self._scores(item, layout) for i, item in enumerate(items)}
        return {i: scores for i, scores in found.items() if scores is not None}

    def keep(self, items: Iterable[tuple[TokenItem, ItemScores]], layout: str) -> None:
        """Store the scores of items."""
        for item, scores in items:
            names = _digests(item, layout)
            self._rewards |= dict(zip(names, scores.rewards, strict=True))
            if scores.distances:  # a model may have none
                self._distances |= dict(zip(_pairs(item, names), scores.distances, strict=True))

    def _scores(self, item: TokenItem, layout: str) -> ItemScores | None:
        names = _digests(item, layout)
        if not all(name in self._rewards for name in names):
            return None
        pairs = _pairs(item, names) if self._distances else []
        if not all(pair in self._distances for pair in pairs):
            return None
        return ItemScores([self._rewards[name] for name in names], [self._distances[pair] for pair in pairs])


def _digests(item: TokenItem, layout: str) -> list[bytes]:
    key = layout.encode()
    return [hashlib.blake2b(array("q", ids).tobytes(), digest_size=12, key=key).digest() for ids in item.sequences]


def _pairs(item: TokenItem, names: Sequence[bytes]) -> list[bytes]:
    """A key for each pair of a correct and another response, in the order of `ItemScores.distances`; a b = b a."""
    n = item.item.correct
    return [min(a, b) + max(a, b) for a in names[:n] for b in names[n:]]
