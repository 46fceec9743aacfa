"""Gradients in few numbers whose inner products are the gradients', for directions."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Result:
    """One layer's squared norms `(pairs,)` and, if requested, sketches of the gradients `(pairs, size)`."""

    square: Tensor
    sketch: Tensor | None


def sketched(name: str, gradients: Sequence[Tensor], size: int) -> Result:
    """The result of a layer from its whole gradients; `size` 0 makes no sketch."""
    in_float64 = [to_float64(g) for g in gradients]
    square = torch.stack([g.square().sum() for g in in_float64]).sum()
    sketches = []
    for i, g in enumerate(in_float64 if size else []):
        if g.dim() > 1:
            g = count_sketch(g.flatten(1), f"{name}{i}", size)
        sketches.append(g.flatten())
    return Result(square, flat(sketches, size))


def combined(results: Sequence[Result]) -> Result:
    """Pair by pair -> `(pairs,)` and `(pairs, size)`."""
    sketches = [r.sketch for r in results if r.sketch is not None]
    return Result(torch.stack([r.square for r in results]), torch.stack(sketches) if sketches else None)


def to_float64(x: Tensor) -> Tensor:
    """Float32 or wider, for sums."""
    return x if x.dtype is torch.float64 else x.float()


def flat(parts: Sequence[Tensor], size: int) -> Tensor | None:
    """One vector of the parts; None where no sketch is asked for."""
    return torch.cat([part.flatten() for part in parts]) if size and parts else None


def count_sketch(rows: Tensor, key: str, size: int, places: Tensor | None = None, height: int | None = None) -> Tensor:
    """A matrix as at most `size` numbers, with the same inner products on average: a count sketch.

    Entry (i, j) of a matrix w wide goes, with the sign s_i t_j, to number (i w + j) mod `size`. With a prime `size` no
    row and no column of the matrix goes to a few numbers only. An inner product of two unit matrices is off by about
    1 / sqrt(size). `places`: which rows of a matrix of that `height` are given, the others being 0.

    Args:
        rows: `(rows, width)`; the whole matrix, or its rows at `places`.
        key: fixes the signs; equal for the same parameter of every pair, so that sketches can be compared.
        size: the most numbers that are kept.
        places: which rows of the matrix are given, the others being 0; None if all are.
        height: rows of the whole matrix, beside `places`.
    """
    height = len(rows) if height is None else height
    width = rows.shape[1]
    at = torch.arange(len(rows), device=rows.device) if places is None else places
    whole = height * width
    if whole > size:
        rows = rows * _signs(height, key + "<", rows)[at, None] * _signs(width, key + ">", rows)
    if places is None:
        padded = torch.nn.functional.pad(rows.flatten(), (0, -whole % min(size, whole)))
        return padded.view(-1, min(size, whole)).sum(dim=0)
    number = (at[:, None] * width + torch.arange(width, device=rows.device)) % size
    return rows.new_zeros(min(size, whole)).index_add_(0, number.flatten(), rows.flatten())


_known_signs: dict[tuple[object, ...], Tensor] = {}


def _signs(n: int, key: str, like: Tensor) -> Tensor:
    """`(n,)` of 1 and -1, the same whenever they are asked for."""
    known = (n, key, like.dtype, like.device)
    if known not in _known_signs:
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        _known_signs[known] = (torch.randint(0, 2, (n,), generator=generator) * 2 - 1).to(like)
    return _known_signs[known]
