"""Pairs -> tensors -> the four tensors that everything above works with.

Two layouts. Padded: one row per response, prompt included, padded on the right to the longest. Shared: all groups
of a forward pass in one row, `[prefix | chosen | rejected]` after `[prefix | chosen | rejected]`, where the prefix is
whatever the responses have in common from the start, so nothing is computed twice and nothing is padded. A group is
a pair or any other number of responses to one prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from rmbench.data.text import TokenGroup
from rmbench.files import Json
from rmbench.modeling.output import PairOutput, Readings
from rmbench.modeling.packing import Packing, Span


@dataclass(frozen=True)
class BatchInputs:
    """The inputs of one forward pass, and the positions of the rewards.

    `pooled_positions` `(responses,)` holds indices into the flattened tokens, group by group; of pairs:
    pair 0 chosen, pair 0 rejected, pair 1 chosen, ...
    """

    input_ids: Tensor  # (rows, length)
    pooled_positions: Tensor
    attention_mask: Tensor | None = None  # (rows, length); padded
    position_ids: Tensor | None = None  # (rows, length); shared
    packing: Packing | None = None  # shared
    embeddings: Tensor | None = None  # (responses, hidden): computed before, the backbone need not run
    predicting: Tensor | None = None  # (own tokens,) flat indices: the state at each predicts ...
    predicted: Tensor | None = None  # (own tokens,) ... this id
    own_tokens: tuple[int, ...] = ()  # of each response, in the order of `pooled_positions`
    tokens: int = 0  # distinct tokens: without filling, the prompt once
    attended: int = 0  # (query, key) pairs of a causal attention over the distinct tokens

    def to(self, device: torch.device) -> BatchInputs:
        """The inputs on `device`; the copy is asynchronous from pinned memory."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> BatchInputs:
        """The inputs in page-locked memory, from which CUDA copies asynchronously."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> BatchInputs:
        changed: Json = {k: change(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **changed)


# rows -> Readings, or its first two fields
Model = Callable[[BatchInputs], tuple[Any, ...]]


class Layout(Protocol):
    """Interface: how groups of responses become model inputs."""

    name: str
    pads: bool  # every sequence of a batch costs as much as its longest
    unread: int | None  # a reward is read before ids of this kind that end a text

    def cost(self, group: TokenGroup) -> int:
        """Number of tokens that a forward pass over this group alone computes."""
        ...

    def inputs(self, groups: Sequence[TokenGroup]) -> BatchInputs:
        """The inputs of the groups, on the CPU."""
        ...


@dataclass(frozen=True)
class TextGroup(TokenGroup):
    """Token ids without the pair or item that they come from."""

    id: str
    sequences: tuple[list[int], ...]
    prefix: int


def as_read(group: TokenGroup, unread: int | None) -> TokenGroup:
    """The group without trailing ids `unread` in its sequences; the first id always stays.

    A decoder's reward is read before them, and no later token has a part in it.
    """
    if unread is None or all(ids[-1] != unread for ids in group.sequences):
        return group
    sequences = tuple(_without_end(ids, unread) for ids in group.sequences)
    return TextGroup(group.id, sequences, min(group.prefix, *map(len, sequences)))


def _without_end(ids: list[int], unread: int) -> list[int]:
    end = len(ids)
    while end and ids[end - 1] == unread:
        end -= 1
    return ids[: end or 1]


class Padded:
    """Layout with one row per response, padded on the right with `pad_id` and masked; for any backbone.

    A decoder's reward is read at the last token that is not `unread`.
    """

    name = "padded"
    pads = True

    def __init__(self, pad_id: int, unread: int | None = None) -> None:
        self.pad_id, self.unread = pad_id, unread

    def cost(self, group: TokenGroup) -> int:
        """Number of tokens: rows times the longest sequence."""
        return len(group.sequences) * group.length

    def inputs(self, groups: Sequence[TokenGroup]) -> BatchInputs:
        """Inputs with ids `(responses, longest)`."""
        groups = [as_read(group, self.unread) for group in groups]
        sequences = [ids for group in groups for ids in group.sequences]
        lengths = torch.tensor([len(ids) for ids in sequences])
        longest = int(lengths.max())
        return BatchInputs(
            input_ids=torch.tensor([[*ids, *[self.pad_id] * (longest - len(ids))] for ids in sequences]),
            attention_mask=(torch.arange(longest) < lengths[:, None]).long(),
            pooled_positions=torch.arange(len(sequences)) * longest + lengths - 1,
            tokens=sum(group.distinct_tokens for group in groups),
            attended=sum(_span(group).attended() for group in groups),
        )


class AsRewardBench(Padded):
    """Padded rows as in RewardBench's pipeline, for scores that must match published ones.

    Of a doubled BOS the first is masked, not removed, so positions start one later; a decoder's reward is read at the
    last token that is not `unread`, the pad token that the checkpoint states (with pad = EOS, one before the EOS), as
    transformers does from 4.49 on.
    """

    name = "rewardbench"

    def __init__(self, pad_id: int, bos_id: int | None, unread: int | None) -> None:
        super().__init__(pad_id)
        self.bos_id, self.ends = bos_id, unread

    def inputs(self, groups: Sequence[TokenGroup]) -> BatchInputs:
        """Inputs with ids `(responses, longest)`."""
        rows = super().inputs(groups)
        ids, mask = rows.input_ids, rows.attention_mask
        assert mask is not None
        if self.bos_id is not None and ids.shape[1] > 1:
            mask[:, 0] &= ~(ids[:, :2] == self.bos_id).all(dim=1)
        read = torch.where((ids != self.ends) & (ids != self.pad_id), torch.arange(ids.shape[1]), 0).amax(dim=1)
        return replace(rows, attention_mask=mask, pooled_positions=torch.arange(len(ids)) * ids.shape[1] + read)


class Shared:
    """Layout with all groups in one row and each group's common prefix once; for backbones with causal attention.

    `multiple` is what the row's length is padded to: FlexAttention compiles again for new lengths.
    """

    name = "shared"
    pads = False

    def __init__(self, pad_id: int, multiple: int = 1, unread: int | None = None) -> None:
        self.pad_id, self.multiple, self.unread = pad_id, multiple, unread

    def cost(self, group: TokenGroup) -> int:
        """Number of distinct tokens of the group."""
        return group.distinct_tokens

    def inputs(self, groups: Sequence[TokenGroup]) -> BatchInputs:
        """Inputs with ids `(1, distinct tokens)`."""
        groups = [as_read(group, self.unread) for group in groups]
        ids: list[int] = []
        positions: list[int] = []
        read: list[int] = []
        spans = [_span(group) for group in groups]
        for group, span in zip(groups, spans, strict=True):
            ids += group.sequences[0][: span.prefix]
            positions += span.positions()
            after_prefix = len(ids) - 1  # where a response ends that has nothing of its own
            for sequence, own in zip(group.sequences, span.branches, strict=True):
                ids += sequence[span.prefix :]
                read.append(len(ids) - 1 if own else after_prefix)
        tokens = len(ids)
        filler = -tokens % self.multiple
        return BatchInputs(
            input_ids=torch.tensor([ids + [self.pad_id] * filler]),
            position_ids=torch.tensor([positions + list(range(filler))]),
            pooled_positions=torch.tensor(read),
            packing=Packing(tuple(spans)),
            tokens=tokens,
            attended=sum(span.attended() for span in spans),
        )


def run_inputs(model: Model, inputs: BatchInputs) -> PairOutput:
    """Rewards and embeddings of both responses of every pair, in one forward pass."""
    rewards, embeddings, kl, log_probs = Readings(*model(inputs))
    of_pairs = None if kl is None else kl[::2] + kl[1::2]
    likelihoods = () if log_probs is None else (log_probs[::2], log_probs[1::2])
    return PairOutput(rewards[::2], rewards[1::2], embeddings[::2], embeddings[1::2], of_pairs, *likelihoods)


def token_batches(
    groups: Sequence[TokenGroup], layout: Layout, budget_tokens: int, max_groups: int | None = None
) -> list[list[int]]:
    """Indices of groups in batches that compute at most `budget_tokens` tokens each, or have one group.

    Longest first, so that a batch that does not fit into memory fails at the start, and alike lengths stand together.

    Args:
        groups: any order; a batch holds groups of like length.
        layout: what a batch costs.
        budget_tokens: computed tokens of a batch.
        max_groups: of a batch, if any.
    """
    batches: list[list[int]] = []
    total = longest = 0
    for i in sorted(range(len(groups)), key=lambda i: (-groups[i].length, i)):
        cost = len(groups[i].sequences) * longest if batches and layout.pads else layout.cost(groups[i])
        if not batches or total + cost > budget_tokens or len(batches[-1]) == max_groups:
            batches.append([])
            total, longest, cost = 0, groups[i].length, layout.cost(groups[i])
        batches[-1].append(i)
        total += cost
    return batches


def _span(group: TokenGroup) -> Span:
    return Span(group.prefix, tuple(len(ids) - group.prefix for ids in group.sequences))
