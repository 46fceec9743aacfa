"""Attention for packed rows: many pairs in one row, each prompt computed once, no padding.

A packed row holds, group by group, `[prefix | branch | branch | ...]`. A token sees the prefix of its own group and
what precedes it in its own branch, as if each prefix + branch were a row of its own; positions restart accordingly.
On CUDA one FlexAttention kernel does it for the whole row; elsewhere each prefix + branch is one exact SDPA call, which
skips everything that a dense block mask would compute and throw away.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

# The name under which transformers knows this attention.
PACKED = "rmbench_packed"
# What FlexAttention's blocks are made of; packed rows are padded to a multiple of it on CUDA.
FLEX_BLOCK_TOKENS = 128


@dataclass(frozen=True)
class Span:
    """One group of a packed row: `prefix` tokens, then each branch's tokens; a branch may be empty."""

    prefix: int
    branches: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the whole group."""
        return self.prefix + sum(self.branches)

    def positions(self) -> list[int]:
        """Each token's position in its own prefix + branch."""
        return [*range(self.prefix), *(p for n in self.branches for p in range(self.prefix, self.prefix + n))]

    def attended(self) -> int:
        """How many (query, key) pairs a causal attention over this group has."""
        return triangle(self.prefix) + sum(triangle(n) + n * self.prefix for n in self.branches)


def triangle(n: int) -> int:
    """1 + 2 + ... + n."""
    return n * (n + 1) // 2


@dataclass
class Packing:
    """The groups of one packed row; remembers what the layers of one forward pass share."""

    spans: tuple[Span, ...]
    needed: tuple[tuple[int, ...], ...] | None = None  # of each group, which positions are read; None: its `ends`
    windows: set[int | None] = field(default_factory=set)  # the sliding windows that the layers asked for
    _masks: dict[Any, Any] = field(default_factory=dict)

    def needed_positions(self, device: torch.device) -> Tensor:
        """Of which tokens the last layer's output is read, each once and in order. A tensor `(positions,)`."""
        if "needed" not in self._masks:
            self._masks["needed"] = torch.tensor(
                [at for group in self.needed_of_groups() for at in group], device=device
            )
        return self._masks["needed"]

    def needed_of_groups(self) -> Sequence[Sequence[int]]:
        """`needed_positions`, group by group."""
        return self.ends() if self.needed is None else self.needed

    def predicting(self, positions: Sequence[Sequence[int]]) -> Packing:
        """The same row, of which these positions are read too, group by group."""
        pairs = zip(self.ends(), positions, strict=True)
        return Packing(self.spans, tuple(tuple(sorted({*ends, *group})) for ends, group in pairs))

    def ends(self) -> list[list[int]]:
        """Where a group's branches end, each once and in order; an empty one ends with the prefix."""
        places, start = [], 0
        for span in self.spans:
            each, end = set(), start + span.prefix
            for n in span.branches:
                end += n
                each.add(end - 1 if n else start + span.prefix - 1)
            places.append(sorted(each))
            start = end
        return places

    def mask(self, queries: int, prefix: int, window: int | None, device: torch.device) -> Tensor:
        """Which of `prefix + queries` keys the last `queries` tokens see, `(queries, prefix + queries)` bool.

        Args:
            queries: the last tokens of the row.
            prefix: keys before the first of them.
            window: how many keys back a token sees, itself included; None for all.
            device: of the mask.
        """
        key = (queries, prefix, window)
        if key not in self._masks:
            seen = torch.ones(queries, prefix + queries, dtype=torch.bool, device=device).tril(prefix)
            self._masks[key] = seen if window is None else seen.triu(prefix - window + 1)
        return self._masks[key]

    def block_mask(self, length: int, window: int | None, device: torch.device) -> Any:
        """FlexAttention's mask of the row; tokens after the last group are filler that sees only filler."""
        from torch.nn.attention.flex_attention import create_block_mask

        if window not in self._masks:
            sees = self.sees(length, window, device)
            self._masks[window] = create_block_mask(
                lambda _batch, _head, q, k: sees(q, k), None, None, length, length, str(device)
            )
        return self._masks[window]

    def sees(self, length: int, window: int | None, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """The rule itself, on indices of queries and keys; every other form in this file is a way to compute it."""
        group, branch, position = (
            torch.tensor(column, device=device) for column in zip(*self._tokens(length), strict=True)
        )

        def rule(q: Tensor, k: Tensor) -> Tensor:
            """Own group, prefix or own branch, not later, not further back than the window."""
            seen = (group[q] == group[k]) & ((branch[k] == 0) | (branch[k] == branch[q])) & (position[k] <= position[q])
            return seen if window is None else seen & (position[q] - position[k] < window)

        return rule

    def _tokens(self, length: int) -> list[tuple[int, int, int]]:
        """(group, branch, position) of every token; branch 0 is the prefix."""
        rows = []
        for group, span in enumerate(self.spans):
            branches = [0] * span.prefix + [b for b, n in enumerate(span.branches, start=1) for _ in range(n)]
            rows += [(group, b, p) for b, p in zip(branches, span.positions(), strict=True)]
        return rows + [(-1, 0, p) for p in range(length - len(rows))]


@torch.compiler.disable  # its loop over spans would be compiled again for every batch
def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    packing: Packing | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention of a packed row, with the signature that transformers' models call.

    Args:
        query: `(1, heads, tokens, head_dim)`; `key` and `value` may have fewer heads (grouped queries).

    Returns:
        `(1, tokens, heads, head_dim)`, and no weights.

    Raises:
        NotImplementedError: the model's attention is more than softmax over a causal or sliding window.
    """
    if packing is None:
        raise NotImplementedError("the model does not pass its keyword arguments to its attention")
    beyond = {"softcap": softcap, "sinks": s_aux, "position_bias": position_bias, "dropout": dropout or None}
    if any(v is not None for v in beyond.values()) or not getattr(module, "is_causal", True):
        names = ", ".join(name for name, v in beyond.items() if v is not None) or "not causal"
        raise NotImplementedError(f"the model's attention has options that packed rows do not support ({names})")
    packing.windows.add(sliding_window)
    if query.device.type == "cuda":
        output = _flex(query, key, value, packing, scaling, sliding_window)
    else:
        # A CPU's bf16 attention is several times slower backwards than its float32 attention.
        with torch.autocast(query.device.type, enabled=False):
            q, k, v = (x.float() if x.dtype is torch.bfloat16 else x for x in (query, key, value))
            needed_only = getattr(module, "needed_only", False)
            output = by_segments(q, k, v, packing, scaling, sliding_window, needed_only).to(value.dtype)
    return output.transpose(1, 2), None


def by_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    scaling: float | None,
    window: int | None,
    needed_only: bool = False,
) -> Tensor:
    """One SDPA call for each prefix + branch. Prefix queries are computed with only the first branch.

    Args:
        query: `(1, heads, tokens, head_dim)`.
        key: the same, with as many heads or a divisor of them.
        value: as `key`.
        packing: where the groups are.
        scaling: of the scores; None for 1 / sqrt(head_dim).
        window: the layer's sliding window, if any.
        needed_only: zeros before the first of `packing.needed_positions` in each piece.
    """
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    # prefix and first branch lie side by side: one piece, nothing to join
    sizes = [n for span in packing.spans for n in (span.prefix + span.branches[0], *span.branches[1:])]
    sizes.append(query.shape[2] - sum(sizes))  # filler, if any
    # split, not slices: its backward writes each gradient once instead of adding up full-length zeros
    queries, keys, values = (x.split(sizes, dim=2) for x in (query, key, value))
    outputs: list[Tensor] = []
    first = start = 0
    for span, needed in zip(packing.spans, packing.needed_of_groups(), strict=True):
        for i in range(first, first + len(span.branches)):
            q, k, v = queries[i], keys[i], values[i]
            if i > first and q.shape[2]:
                k, v = (_join([x[first][:, :, : span.prefix], x[i]]) for x in (keys, values))
            if not q.shape[2]:
                continue
            left_out = _left_out(needed, start, q.shape[2]) if needed_only else 0
            output = _attend(q[:, :, left_out:], k, v, packing, scaling, window)
            start += q.shape[2]
            outputs.append(pad(output, (0, 0, left_out, 0)) if left_out else output)
        first += len(span.branches)
    outputs.append(torch.zeros_like(queries[-1]))
    return _join(outputs)


def _left_out(needed: Sequence[int], start: int, length: int) -> int:
    """How many of a piece's first queries are not computed: none where a mask would cost more than it leaves out."""
    before = needed[bisect_left(needed, start)] - start
    return before if 2 * (length - before) <= length else 0


def _attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, scaling: float | None, window: int | None) -> Tensor:
    """Causal attention of the last `q` tokens of `k`; the flag where it will do, since it skips what is masked.

    Args:
        q: `(1, heads, queries, head_dim)`: the last tokens of `k`.
        k: `(1, heads, keys, head_dim)`.
        v: as `k`.
        packing: remembers the masks of a forward pass.
        scaling: of the scores; None for 1 / sqrt(head_dim).
        window: the layer's sliding window, if any.
    """
    before = k.shape[2] - q.shape[2]
    if q.shape[2] == 1 and (window is None or window >= k.shape[2]):
        return scaled_dot_product_attention(q, k, v, scale=scaling)
    if before == 0 and (window is None or window >= k.shape[2]):
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    mask = packing.mask(q.shape[2], before, window, q.device)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)


def _flex(q: Tensor, k: Tensor, v: Tensor, packing: Packing, scaling: float | None, window: int | None) -> Tensor:
    """The whole row in one FlexAttention kernel.

    Args:
        q: `(1, heads, tokens, head_dim)`.
        k: the same, with as many heads or a divisor of them.
        v: as `k`.
        packing: where the groups are.
        scaling: of the scores; None for 1 / sqrt(head_dim).
        window: the layer's sliding window, if any.
    """
    mask = packing.block_mask(q.shape[2], window, q.device)
    grouped = q.shape[1] != k.shape[1]
    output: Tensor = _compiled_flex()(q, k, v, block_mask=mask, scale=scaling, enable_gqa=grouped)
    return output


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _join(parts: Sequence[Tensor]) -> Tensor:
    filled = [part for part in parts if part.shape[2]]
    return filled[0] if len(filled) == 1 else torch.cat(filled or list(parts[:1]), dim=2)


AttentionInterface.register(PACKED, packed_attention)
