"""Why two embeddings are near-identical: how alike their texts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from rmbench.data.formats import Pair
from rmbench.data.protocols import Tokenizer
from rmbench.data.text import common_prefix


def likeness(pairs: Sequence[Pair], tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Similarity of each pair's two responses in tokens, without the prompt: `(pairs,)` each, between 0 and 1.

    token_overlap: tokens in common, with their counts, of all tokens (multiset Jaccard); edit_distance: Levenshtein's
    over the longer's length; length_difference: over the longer's length; shared_prefix: equal tokens from the start,
    over the shorter's length.
    """
    rows = [_likeness(*(_tokens(side, tokenizer) for side in (pair.chosen, pair.rejected))) for pair in pairs]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _likeness(chosen: list[int], rejected: list[int]) -> dict[str, float]:
    longer, shorter = max(len(chosen), len(rejected), 1), max(min(len(chosen), len(rejected)), 1)
    a, b = Counter(chosen), Counter(rejected)
    return {
        "token_overlap": (a & b).total() / max((a | b).total(), 1),
        "edit_distance": Levenshtein.distance(chosen, rejected) / longer,
        "length_difference": abs(len(chosen) - len(rejected)) / longer,
        "shared_prefix": common_prefix(chosen, rejected) / shorter,
    }


def _tokens(messages: Sequence[Any], tokenizer: Tokenizer) -> list[int]:
    text = "\n".join(message["content"] for message in messages)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
