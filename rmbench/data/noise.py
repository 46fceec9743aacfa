"""Noise that an experiment puts into training pairs on purpose: flipped labels, near-duplicates with coin-flip labels.

Each pair has its own random stream, named by the seed and by what the pair says: it does not depend on other pairs or
their order, and one share does not move the other's pairs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from rmbench.config import NoiseConfig
from rmbench.data.formats import Pair
from rmbench.data.messages import Message

VERSION = 2  # raise it when noise changes other pairs, or changes them in another way
NEAR_DUPLICATE = "near_duplicate"  # the source of such pairs, so that records tell them apart


def with_noise(pair: Pair, digest: bytes, config: NoiseConfig, counts: Counter[str]) -> Pair:
    """The pair, or what noise makes of it; `counts` says how often each happened.

    Args:
        pair: as the data have it.
        digest: names the pair, whatever its id.
        config: shares and seed.
        counts: receives near_duplicates and label_flips.
    """
    rng = Random(f"{config.seed}-{digest.hex()}")
    near, flip, coin = rng.random() < config.near_duplicates, rng.random() < config.label_flips, rng.random() < 0.5
    if near:
        copy = _nearly(pair.chosen, rng)
        chosen, rejected = (pair.chosen, copy) if coin else (copy, pair.chosen)
        pair = replace(pair, chosen=chosen, rejected=rejected, source=NEAR_DUPLICATE)
        counts["near_duplicates"] += 1
    if flip:
        pair = replace(pair, chosen=pair.rejected, rejected=pair.chosen)
        counts["label_flips"] += 1
    return pair


def _nearly(response: list[Message], rng: Random) -> list[Message]:
    """A copy of the response in which one word of its last turn with words is repeated."""
    at = max((i for i, turn in enumerate(response) if turn["content"].strip()), default=None)
    if at is None:
        return response
    words = response[at]["content"].split(" ")
    place = rng.choice([i for i, word in enumerate(words) if word.strip()])
    changed = response[at] | {"content": " ".join([*words[: place + 1], *words[place:]])}
    return [*response[:at], changed, *response[at + 1 :]]
