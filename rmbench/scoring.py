"""Rewards and distances of many pairs, and the numbers that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from rmbench.layout import run_pairs, token_batches
from rmbench.text import TokenPair


@dataclass(frozen=True)
class PairScores:
    """Float64 arrays `(pairs,)`, in the order of the pairs."""

    chosen: np.ndarray
    rejected: np.ndarray
    distance: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """r_w - r_l."""
        return self.chosen - self.rejected


def score_pairs(
    model: torch.nn.Module, pairs: Sequence[TokenPair], pad_id: int, device: torch.device, budget_tokens: int
) -> PairScores:
    """Scores of all pairs, whichever rank computes them. Batches hold pairs of similar length and at most
    `budget_tokens` padded tokens.
    """
    state = PartialState()
    batches = token_batches([p.length for p in pairs], budget_tokens)
    rows: list[tuple[int, float, float, float]] = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in batches[state.process_index :: state.num_processes]:
            out = run_pairs(model, [pairs[i] for i in batch], pad_id, device)
            columns = (out.rewards_chosen, out.rewards_rejected, out.distance)
            rows += zip(batch, *(c.double().tolist() for c in columns), strict=True)
    model.train(was_training)
    rows = sorted(gather_object(rows))
    table = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 3)
    return PairScores(*table.T)


def summarize(scores: PairScores, sections: Sequence[str]) -> dict[str, Any]:
    """Accuracy (strict: a tie is a loss), mean BT loss, mean margin and distance; accuracy and distance by section.

    The loss is plain Bradley-Terry whatever the training loss is, so that runs can be compared.
    """
    margin = scores.margin
    names = np.array(sections)
    return {
        "n": len(margin),
        "accuracy": _mean(margin > 0),
        "loss": _mean(np.logaddexp(0.0, -margin)),
        "margin": _mean(margin),
        "distance": _mean(scores.distance),
        "ties": int((margin == 0).sum()),
        "sections": {str(s): _mean(margin[names == s] > 0) for s in sorted(set(sections))},
        "section_distance": {str(s): _mean(scores.distance[names == s]) for s in sorted(set(sections))},
    }


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64))
