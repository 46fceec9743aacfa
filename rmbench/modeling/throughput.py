"""How much of the machine a run uses: floating-point operations of the distinct tokens against the matrix rate."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A backward pass computes two products for each one of the forward pass.
FORWARD, FORWARD_AND_BACKWARD = 1, 3


@dataclass(frozen=True)
class ModelCost:
    """Floating-point operations of matrix products in a forward pass.

    Recomputed activations, filled-up tokens and prompts computed twice do not count: they are what a layout saves. The
    last layer counts whole, also where only its pooled positions are computed.
    """

    per_token: int  # two for each weight of a matrix that a token passes through
    per_attended: int  # of each (query, key) pair, all layers: a product for the score and one for the value

    def flops(self, tokens: float, attended: float, passes: int = FORWARD) -> float:
        """Operations for `tokens` distinct tokens with `attended` (query, key) pairs."""
        return passes * (self.per_token * tokens + self.per_attended * attended)


def model_cost(network: PreTrainedModel) -> ModelCost:
    """The operations per token of a stock transformer: every matrix of the backbone but the embedding tables."""
    config = network.config.get_text_config()
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return ModelCost(2 * matrix_weights(network), 4 * width * config.num_hidden_layers)


def matrix_weights(network: PreTrainedModel) -> int:
    """Number of weights that a token is multiplied with: the backbone's matrices without the embedding tables."""
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    return sum(p.numel() for p in network.base_model.parameters() if p.dim() == 2 and id(p) not in tables)


@functools.cache
def matrix_rate(
    device: torch.device, dtype: torch.dtype, seconds: float = 0.05, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Floating-point operations per second of large matrix products on `device`, measured once per process.

    Args:
        device: where.
        dtype: of the factors.
        seconds: that it may take.
        clock: in seconds.
    """
    size, at_once = (8192, 4) if device.type == "cuda" else (1024, 1)
    own = torch.Generator(device).manual_seed(0)  # a run's own draws do not depend on whether it is the first to ask
    a = torch.randn(size, size, device=device, generator=own).to(dtype)
    a @ a
    _wait(device)
    started, n = clock(), 0
    while clock() - started < seconds:
        for _ in range(at_once):
            a @ a
        n += at_once
        _wait(device)
    return 2 * size**3 * n / (clock() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
