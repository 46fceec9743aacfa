"""How many tokens go through the model at once: found by trying, halved when memory runs out. What of it is kept."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from collections.abc import Callable

import torch
from accelerate.utils.memory import should_reduce_batch_size

from rmbench.errors import UserError

logger = logging.getLogger(__name__)

# Where the search begins. More gains a CPU little and costs it memory; a GPU is fastest when full.
FIRST_BUDGET_TOKENS = {"cpu": 2048, "mps": 4096, "cuda": 65536}
# glibc's mallopt: how much free space at the heap's end, and blocks of what size, go back to the system
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
GOES_BACK_BYTES = 32 * 2**20  # older versions take no more


def keep_freed_memory() -> None:
    """Let the process keep freed memory (glibc), because the next forward pass on a CPU needs it again.

    Handed back, it would come as new pages, which the system fills with zeros first. Large blocks still
    go back: they would leave holes, and their pages cost little beside what is computed on them. Nothing happens where
    the C library is not glibc.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None and mallopt(M_MMAP_THRESHOLD, GOES_BACK_BYTES):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Return freed memory to the system once, between runs."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def first_budget(asked: int | None, device: torch.device) -> int:
    """Number of tokens per forward pass to begin with."""
    return FIRST_BUDGET_TOKENS[device.type] if asked is None else asked


def out_of_memory(error: Exception) -> bool:
    """Whether the error is of memory, so that fewer tokens may succeed."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def halved(budget_tokens: int, tokens: int, pairs: int, remedy: str) -> int:
    """The next budget to try after a forward pass with `tokens` of `pairs` ran out of memory.

    Args:
        budget_tokens: of the pass that failed.
        tokens: that it computed.
        pairs: that it held.
        remedy: for the message where nothing smaller can be tried.

    Raises:
        UserError: it held one pair already, so that no smaller budget would help.
    """
    if pairs == 1:
        raise UserError(f"A single pair of {tokens} tokens does not fit into memory.\n{remedy}")
    smaller = min(budget_tokens, tokens) // 2
    gc.collect()  # the error's traceback held the activations
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    logger.info("out of memory; continuing with %d tokens per forward pass instead of %d", smaller, budget_tokens)
    return smaller
