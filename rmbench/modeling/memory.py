"""How many tokens go through the model at once: found by trying, halved when memory runs out."""

from __future__ import annotations

import gc
import logging

import torch
from accelerate.utils.memory import should_reduce_batch_size

from rmbench.errors import UserError

logger = logging.getLogger(__name__)

# Where the search begins. A CPU is fastest where activations stay in its caches; a GPU is with as much as it can hold.
FIRST_BUDGET_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 65536}


def first_budget(asked: int | None, device: torch.device) -> int:
    """Tokens per forward pass to begin with."""
    return FIRST_BUDGET_TOKENS[device.type] if asked is None else asked


def out_of_memory(error: Exception) -> bool:
    """Whether fewer tokens at once might have gone well."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def halved(budget_tokens: int, tokens: int, pairs: int, remedy: str) -> int:
    """The next budget to try after a forward pass with `tokens` of `pairs` ran out of memory.

    Raises:
        UserError: it held one pair already, so that no smaller budget would help.
    """
    if pairs == 1:
        raise UserError(f"A single pair of {tokens} tokens does not fit into memory.\n{remedy}")
    smaller = min(budget_tokens, tokens) // 2
    gc.collect()  # the error's traceback held the activations
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    logger.info("out of memory; going on with %d tokens per forward pass instead of %d", smaller, budget_tokens)
    return smaller
