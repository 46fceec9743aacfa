"""Rewards and distances of many pairs, and the numbers that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from rmbench.console import progress
from rmbench.data.text import TokenPair
from rmbench.modeling.layout import Layout, PairOutput, Rows, run_rows, token_batches
from rmbench.modeling.memory import halved, out_of_memory


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
    model: torch.nn.Module, pairs: Sequence[TokenPair], layout: Layout, device: torch.device, budget_tokens: int
) -> PairScores:
    """Scores of all pairs, whichever rank computes them; each forward pass computes at most `budget_tokens` tokens.

    Raises:
        UserError: a single pair does not fit into memory.
    """
    state = PartialState()
    mine = list(range(state.process_index, len(pairs), state.num_processes))
    rows: list[tuple[int, float, float, float]] = []
    with progress("scoring", len(mine), shown=state.is_main_process) as advance:
        for indices, out in forward_all(model, [pairs[i] for i in mine], layout, device, budget_tokens):
            columns = (out.rewards_chosen, out.rewards_rejected, out.distance)
            rows += zip([mine[i] for i in indices], *(c.double().tolist() for c in columns), strict=True)
            advance(len(rows))
    rows = sorted(gather_object(rows))
    table = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 3)
    return PairScores(*table.T)


def forward_all(
    model: torch.nn.Module, pairs: Sequence[TokenPair], layout: Layout, device: torch.device, budget_tokens: int
) -> Iterator[tuple[list[int], PairOutput]]:
    """Indices into `pairs` and what the model says of them, forward pass by forward pass, without gradients.

    Raises:
        UserError: a single pair does not fit into memory.
    """
    was_training = model.training
    model.eval()
    batches = token_batches(pairs, layout, budget_tokens)
    try:
        while batches:
            part = [pairs[i] for i in batches[0]]
            output = _forward(model, layout.rows(part).to(device))
            if output is None:
                cost = sum(layout.cost(pair) for pair in part)
                budget_tokens = halved(budget_tokens, cost, len(part), "A smaller max_length needs less.")
                left = [i for batch in batches for i in batch]
                again = token_batches([pairs[i] for i in left], layout, budget_tokens)
                batches = [[left[i] for i in batch] for batch in again]
                continue
            yield batches.pop(0), output
    finally:
        model.train(was_training)


def _forward(model: torch.nn.Module, rows: Rows) -> PairOutput | None:
    """None if memory ran out."""
    try:
        with torch.inference_mode():
            return run_rows(model, rows)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return None


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
