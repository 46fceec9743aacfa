"""Attention for packed rows: many pairs in one row, each prompt computed once, no padding.

A packed row holds, group by group, `[prefix | branch | branch | ...]`. A token sees the prefix of its own group and
what precedes it in its own branch, as if each prefix + branch were a row of its own; positions restart accordingly.
On CUDA one FlexAttention kernel does it for the whole row. Elsewhere each prefix + branch is one exact SDPA call, which
skips everything that a dense block mask would compute and throw away; short ones are padded rows of one call together.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from rmbench.modeling.packing import Packing

# The name under which transformers knows this attention.
PACKED = "rmbench_packed"
# What FlexAttention's blocks are made of; packed rows are padded to a multiple of it on CUDA.
FLEX_BLOCK_TOKENS = 128
# Up to so many values of a query (tokens times heads times head_dim), calls cost more than the products of padding
# (32 pairs a pass, one thread: 2.2 times faster at 32 tokens of width 64, no faster at 64, 0.6 times at 32 x 576).
SHORT_VALUES = 64 * 64


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
            if packing.longest * q.shape[1] * q.shape[3] <= SHORT_VALUES:
                output = by_rows(q, k, v, packing, scaling, sliding_window)
            else:
                needed_only = getattr(module, "needed_only", False)
                output = by_segments(q, k, v, packing, scaling, sliding_window, needed_only)
        output = output.to(value.dtype)
    return output.transpose(1, 2), None


def by_rows(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Tensor:
    """Attention by one SDPA call for all prefixes + branches as padded rows; arguments as of `by_segments`."""
    tokens, places = packing.rows(query.device)
    rows, longest = tokens.shape
    key, value = _for_every_head(query, key, value)
    q, k, v = (
        x[0].transpose(0, 1).index_select(0, tokens.flatten()).view(rows, longest, *x.shape[1::2]).transpose(1, 2)
        for x in (query, key, value)
    )
    mask = None if window is None or window >= longest else packing.mask(longest, 0, window, query.device)
    # padding stands behind what is read, so a causal row does not see it
    output = scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scaling)
    packed = output.transpose(1, 2).flatten(0, 1).index_select(0, places)
    return pad(packed, (0, 0, 0, 0, 0, query.shape[2] - len(packed))).transpose(0, 1)[None]


def by_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    scaling: float | None,
    window: int | None,
    needed_only: bool = False,
) -> Tensor:
    """Attention by one SDPA call for each prefix + branch; queries of the prefix are computed only with the first.

    Args:
        query: `(1, heads, tokens, head_dim)`.
        key: the same, with as many heads or a divisor of them.
        value: as `key`.
        packing: where the groups are.
        scaling: of the scores; None for 1 / sqrt(head_dim).
        window: the layer's sliding window, if any.
        needed_only: zeros before the first of `packing.needed_positions` in each piece.
    """
    key, value = _for_every_head(query, key, value)
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


def _for_every_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of grouped queries, repeated to as many heads."""
    repeats = query.shape[1] // key.shape[1]
    if repeats == 1:
        return key, value
    return key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)


def _left_out(needed: Sequence[int], start: int, length: int) -> int:
    """How many of a piece's first queries are not computed: none where a mask would cost more than it leaves out."""
    before = needed[bisect_left(needed, start)] - start
    return before if 2 * (length - before) <= length else 0


def _attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, scaling: float | None, window: int | None) -> Tensor:
    """Causal attention of the last tokens of `k`; without a mask where SDPA's `is_causal` suffices, which is faster.

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
    """Attention of the whole row in one FlexAttention kernel.

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
