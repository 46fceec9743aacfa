"""Pairs -> tensors -> the four tensors that everything above works with.

The padded layout: one row per response, prompt included, the chosen ones first. Rows are padded on the right, so the
pooled position is length - 1 and never depends on the pad id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rmbench.text import TokenPair

# input_ids, attention_mask (rows, length), last position (rows,) -> rewards (rows,), embeddings (rows, hidden)
Model = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PairOutput:
    """What a model says of a batch of pairs: rewards `(pairs,)`, embeddings `(pairs, hidden)`, float32 or wider."""

    rewards_chosen: Tensor
    rewards_rejected: Tensor
    embeddings_chosen: Tensor
    embeddings_rejected: Tensor

    @property
    def margin(self) -> Tensor:
        """r_w - r_l, `(pairs,)`."""
        return self.rewards_chosen - self.rewards_rejected

    @property
    def distance(self) -> Tensor:
        """||h_w - h_l||, `(pairs,)`, detached: no loss trains through it."""
        return (self.embeddings_chosen - self.embeddings_rejected).detach().norm(dim=-1)


def pad_rows(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids -> input_ids and attention_mask `(rows, longest)`, last position `(rows,)`, on `device`.

    >>> pad_rows([[5, 6, 7], [5, 8]], 0, torch.device("cpu"))
    (tensor([[5, 6, 7],
            [5, 8, 0]]), tensor([[1, 1, 1],
            [1, 1, 0]]), tensor([2, 1]))
    """
    lengths = torch.tensor([len(ids) for ids in sequences])
    longest = int(lengths.max())
    input_ids = torch.tensor([[*ids, *[pad_id] * (longest - len(ids))] for ids in sequences])
    attention_mask = (torch.arange(longest) < lengths[:, None]).long()
    return input_ids.to(device), attention_mask.to(device), (lengths - 1).to(device)


def run_pairs(model: Model, pairs: Sequence[TokenPair], pad_id: int, device: torch.device) -> PairOutput:
    """One forward pass over both sides of every pair."""
    rows = [p.chosen for p in pairs] + [p.rejected for p in pairs]
    rewards, embeddings = model(*pad_rows(rows, pad_id, device))
    n = len(pairs)
    return PairOutput(rewards[:n], rewards[n:], embeddings[:n], embeddings[n:])


def token_batches(lengths: Sequence[int], budget: int, rows_per_item: int = 2) -> list[list[int]]:
    """Indices in batches of similar length, each padded batch within `budget` tokens (or one item).

    Longest first, so that a batch that does not fit into memory fails at the start.
    """
    batches: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or (len(batches[-1]) + 1) * rows_per_item * longest > budget:
            batches.append([])
            longest = lengths[i]
        batches[-1].append(i)
    return batches
