"""Pairs -> tensors -> the four tensors that everything above works with.

Two layouts. Padded: one row per response, prompt included, filled up on the right to the longest. Shared: all pairs of
a forward pass in one row, `[prefix | chosen | rejected]` after `[prefix | chosen | rejected]`, where the prefix is
whatever the two sides have in common from the start, so nothing is computed twice and nothing is filled up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from rmbench.data.text import TokenPair
from rmbench.modeling.attention import Packing, Span


@dataclass(frozen=True)
class Rows:
    """What one forward pass takes, and where in it the rewards are read.

    `read` `(2 * pairs,)` holds indices into the flattened tokens: pair 0 chosen, pair 0 rejected, pair 1 chosen, ...
    """

    input_ids: Tensor  # (rows, length)
    read: Tensor
    attention_mask: Tensor | None = None  # (rows, length); padded
    position_ids: Tensor | None = None  # (rows, length); shared
    packing: Packing | None = None  # shared
    embeddings: Tensor | None = None  # (2 * pairs, hidden): computed before, the backbone need not run
    tokens: int = 0  # distinct tokens: without filling, the prompt once
    attended: int = 0  # (query, key) pairs of a causal attention over the distinct tokens

    def to(self, device: torch.device) -> Rows:
        """The same on `device`, without waiting for the copy where memory is pinned."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> Rows:
        """The same in page-locked memory, from which CUDA copies while it computes."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Rows:
        changed: dict[str, Any] = {k: change(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **changed)


# rows -> rewards (2 * pairs,), embeddings (2 * pairs, hidden), in the order of rows.read
Model = Callable[[Rows], tuple[Tensor, Tensor]]


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


class Layout(Protocol):
    """How pairs become rows."""

    name: str
    fills_up: bool  # every pair of a batch costs as much as its longest

    def cost(self, pair: TokenPair) -> int:
        """Tokens that a forward pass over this pair alone computes."""
        ...

    def rows(self, pairs: Sequence[TokenPair]) -> Rows:
        """The pairs' tensors, on the CPU."""
        ...


class Padded:
    """Two rows a pair, filled up on the right, so a pooled position never depends on the pad id. Any backbone."""

    name = "padded"
    fills_up = True

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def cost(self, pair: TokenPair) -> int:
        """Two rows of the longer side's length."""
        return 2 * pair.length

    def rows(self, pairs: Sequence[TokenPair]) -> Rows:
        """`(2 * pairs, longest)`."""
        sequences = [ids for pair in pairs for ids in (pair.chosen, pair.rejected)]
        lengths = torch.tensor([len(ids) for ids in sequences])
        longest = int(lengths.max())
        return Rows(
            input_ids=torch.tensor([[*ids, *[self.pad_id] * (longest - len(ids))] for ids in sequences]),
            attention_mask=(torch.arange(longest) < lengths[:, None]).long(),
            read=torch.arange(len(sequences)) * longest + lengths - 1,
            tokens=sum(pair.distinct_tokens for pair in pairs),
            attended=sum(_span(pair).attended() for pair in pairs),
        )


class Shared:
    """All pairs in one row, the common prefix of a pair once. Backbones of causal attention.

    `multiple` is what the row's length is filled up to: FlexAttention compiles again for new lengths.
    """

    name = "shared"
    fills_up = False

    def __init__(self, pad_id: int, multiple: int = 1) -> None:
        self.pad_id, self.multiple = pad_id, multiple

    def cost(self, pair: TokenPair) -> int:
        """Distinct tokens."""
        return pair.distinct_tokens

    def rows(self, pairs: Sequence[TokenPair]) -> Rows:
        """`(1, distinct tokens)`."""
        ids: list[int] = []
        positions: list[int] = []
        read: list[int] = []
        spans = [_span(pair) for pair in pairs]
        for pair, span in zip(pairs, spans, strict=True):
            prefix, (chosen, rejected) = span.prefix, span.branches
            start = len(ids)
            ids += pair.chosen + pair.rejected[prefix:]
            positions += span.positions()
            after_prefix = start + prefix - 1  # where a side ends that has nothing of its own
            read += [after_prefix + chosen, after_prefix + chosen + rejected if rejected else after_prefix]
        tokens = len(ids)
        filler = -tokens % self.multiple
        return Rows(
            input_ids=torch.tensor([ids + [self.pad_id] * filler]),
            position_ids=torch.tensor([positions + list(range(filler))]),
            read=torch.tensor(read),
            packing=Packing(tuple(spans)),
            tokens=tokens,
            attended=sum(span.attended() for span in spans),
        )


def run_rows(model: Model, rows: Rows) -> PairOutput:
    """One forward pass over both sides of every pair."""
    rewards, embeddings = model(rows)
    return PairOutput(rewards[::2], rewards[1::2], embeddings[::2], embeddings[1::2])


def token_batches(
    pairs: Sequence[TokenPair], layout: Layout, budget_tokens: int, max_pairs: int | None = None
) -> list[list[int]]:
    """Indices of pairs in batches that compute at most `budget_tokens` tokens (or hold one pair).

    Longest first, so that a batch that does not fit into memory fails at the start, and alike lengths stand together.
    """
    batches: list[list[int]] = []
    total = each = 0
    for i in sorted(range(len(pairs)), key=lambda i: (-pairs[i].length, i)):
        cost = layout.cost(pairs[i])
        each = each if batches and layout.fills_up else cost
        if not batches or total + each > budget_tokens or len(batches[-1]) == max_pairs:
            batches.append([])
            total, each = 0, cost
        batches[-1].append(i)
        total += each
    return batches


def _span(pair: TokenPair) -> Span:
    return Span(pair.prefix, (len(pair.chosen) - pair.prefix, len(pair.rejected) - pair.prefix))
