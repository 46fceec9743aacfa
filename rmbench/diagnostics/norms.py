"""Gradient norms of a micro-batch's pairs, by layer and by part of the network."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GradientNorms:
    """Gradient norms of one micro-batch: `squares` has each layer's squared norms `(pairs,)` by name."""

    squares: dict[str, Tensor]
    sketch: Tensor | None = None  # (pairs, size): inner products of rows approximate those of the gradients

    @property
    def norms(self) -> Tensor:
        """||grad values_i||, `(pairs,)`."""
        return torch.stack(list(self.squares.values())).sum(dim=0).sqrt()

    def by_block(self) -> dict[str, Tensor]:
        """Squared norms by part of the network, in its order: embedding, block 0, block 1, ..., other, head."""
        blocks: dict[str, Tensor] = {}
        for name, square in self.squares.items():
            blocks[block_of(name)] = blocks.get(block_of(name), torch.zeros_like(square)) + square
        rank = {"embedding": -1, "other": 10**6, "head": 10**6 + 1}
        return {k: blocks[k] for k in sorted(blocks, key=lambda k: rank[k] if k in rank else int(k.split()[1]))}

    def block_shares(self) -> dict[str, list[float]]:
        """Each part's share of each pair's squared norm; pairs without a gradient are left out."""
        whole = self.norms.square()
        kept = whole > 0
        return {k: (v[kept] / whole[kept]).cpu().double().tolist() for k, v in self.by_block().items()}

    def times(self, factor: Tensor | float) -> GradientNorms:
        """The norms of the gradients times `factor`: one number, or one per pair, such as d loss_i / d margin_i."""
        by_pair = torch.as_tensor(factor, dtype=self.norms.dtype, device=self.norms.device).expand_as(self.norms)
        sketch = None if self.sketch is None else self.sketch * by_pair[:, None]
        return GradientNorms({name: square * by_pair**2 for name, square in self.squares.items()}, sketch)


def block_of(layer: str) -> str:
    """The part of the network that a layer belongs to, by its name.

    >>> [block_of(n) for n in ("network.model.layers.3.mlp.up_proj", "network.model.norm", "network.score")]
    ['block 3', 'other', 'head']
    """
    number = re.search(r"\.(\d+)\.", layer)
    if number:
        return f"block {number[1]}"
    if "embed" in layer or layer.endswith((".wte", ".wpe")):
        return "embedding"
    return "head" if re.search(r"\.(score|classifier|head)(\.|$)", layer) else "other"
