"""Rating margins in a unit that sources share: raw ones are mostly a weight of their source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rmbench.config import RatingScale
from rmbench.data.formats import Pair
from rmbench.errors import UserError


def with_scaled_ratings(pairs: Sequence[Pair], scale: RatingScale, loss: str) -> list[Pair]:
    """The pairs with their rating margins in another unit, source by source.

    `std` divides by the root mean square: the standard deviation of the margins with the two sides in random order, so
    that a source with one margin throughout gets 1. `rank` is (rank - 1/2) / pairs, ties sharing their mean rank.

    Raises:
        UserError: a pair has no rating margin, or a negative one: its chosen response was rated lower.
    """
    for fault, found in (
        ("no rating margin", [p for p in pairs if p.rating_margin is None]),
        ("a rating margin below 0", [p for p in pairs if p.rating_margin is not None and p.rating_margin < 0]),
    ):
        if found:
            raise UserError(
                f"loss.pairwise={loss} needs how much better each chosen response was rated, but {len(found):,} of"
                f" {len(pairs):,} training pairs have {fault} (the first: {found[0].id!r} of {found[0].source!r}).\n"
                "Give a column `margin`, or choose another loss: `rmbench losses` shows which need ratings."
            )
    places = defaultdict(list)
    for place, pair in enumerate(pairs):
        places[pair.source].append(place)
    scaled = np.zeros(len(pairs))
    for where in places.values():
        scaled[where] = _scaled(np.array([pairs[i].rating_margin for i in where], dtype=np.float64), scale)
    return [replace(pair, rating_margin=float(margin)) for pair, margin in zip(pairs, scaled, strict=True)]


def _scaled(margins: np.ndarray, scale: RatingScale) -> np.ndarray:
    if scale is RatingScale.raw:
        return margins
    if scale is RatingScale.std:
        largest = margins.max()  # so that squares neither overflow nor vanish
        relative = margins / largest if largest else margins
        return relative / np.sqrt(np.mean(relative**2)) if largest else margins
    _, inverse, counts = np.unique(margins, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray((mean_rank[inverse] - 0.5) / len(margins))
