"""What each optimiser step computes: its global batch, this rank's part of it, split into forward passes.

The next step's tensors are made while the present one runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from rmbench.config import TrainConfig
from rmbench.data.text import TokenPair
from rmbench.data.tokens import lengths
from rmbench.errors import UserError
from rmbench.losses import rating_margins
from rmbench.modeling.layout import BatchInputs, Layout, token_batches
from rmbench.training.sampler import StepBatches


@dataclass(frozen=True)
class MicroBatch:
    """The pairs of one forward pass and their tensors."""

    pairs: list[TokenPair]
    inputs: BatchInputs
    rating_margin: Tensor | None  # (pairs,), where every pair has one


@dataclass(frozen=True)
class StepInput:
    """One rank's share of an optimiser step; `pairs` counts those of all ranks."""

    micro_batches: list[MicroBatch]
    pairs: int


@dataclass(frozen=True)
class Share:
    """Which part of every global batch is this process's.

    Args:
        rank: this process of `world`.
        in_step: every rank makes as many forward passes as the others, since their weights are sharded among them.
    """

    rank: int = 0
    world: int = 1
    in_step: bool = False


class StepFeed:
    """The input of step 0, 1, ... for one rank.

    Args:
        pairs: what `batches` draws from.
        batches: the pairs of each global batch.
        layout: how pairs become inputs.
        share: this process's.
        max_pairs: at most so many pairs per forward pass, or None.
    """

    def __init__(
        self,
        pairs: Sequence[TokenPair],
        batches: StepBatches,
        layout: Layout,
        share: Share,
        max_pairs: int | None,
    ) -> None:
        self.pairs, self.batches, self.layout = pairs, batches, layout
        self.share, self.max_pairs = share, max_pairs
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._next: tuple[tuple[int, int], Future[StepInput]] | None = None

    def at(self, step: int, budget_tokens: int) -> StepInput:
        """The input of optimiser step `step`, in forward passes of at most `budget_tokens`."""
        if self._next is not None:
            (asked, future), self._next = self._next, None
            ready = future.result()  # waited for even if of no use: two threads would race for the sampler's epoch
            if asked == (step, budget_tokens):
                self._prepare(step + 1, budget_tokens)
                return ready
        step_input = self._make(step, budget_tokens)
        self._prepare(step + 1, budget_tokens)
        return step_input

    def _prepare(self, step: int, budget_tokens: int) -> None:
        self._next = ((step, budget_tokens), self._pool.submit(self._make, step, budget_tokens))

    def _make(self, step: int, budget_tokens: int) -> StepInput:
        batch = self.batches.at(step)
        # Dealt out by length, so that every rank has about as much to do; ties by index, so that all ranks agree.
        ordered = sorted(batch, key=lambda i: (-self.batches.lengths[i], i))
        world = self.share.world
        shares = [[self.pairs[i] for i in ordered[rank::world]] for rank in range(world)]
        micro_batches = []
        for part in self._parts(shares, budget_tokens):
            inputs = self.layout.inputs(part)
            inputs = inputs.pin() if torch.cuda.is_available() else inputs
            micro_batches.append(MicroBatch(part, inputs, rating_margins(part)))
        return StepInput(micro_batches, len(batch))

    def _parts(self, shares: list[list[TokenPair]], budget_tokens: int) -> list[list[TokenPair]]:
        """This rank's share in forward passes."""

        def split(share: list[TokenPair]) -> list[list[TokenPair]]:
            """One rank's share, within the budget."""
            batches = token_batches(share, self.layout, budget_tokens, self.max_pairs)
            return [[share[i] for i in batch] for batch in batches]

        parts = split(shares[self.share.rank])
        # Every forward pass gathers sharded weights from all ranks, so those with fewer passes split theirs.
        while self.share.in_step and len(parts) < max(len(split(share)) for share in shares):
            longest = max(parts, key=len)
            at, half = parts.index(longest), len(longest) // 2
            parts[at : at + 1] = [longest[:half], longest[half:]]
        return parts


def new_feed(pairs: Sequence[TokenPair], layout: Layout, config: TrainConfig, share: Share) -> StepFeed:
    """The input of every step of a run.

    Args:
        pairs: all that a run trains on.
        layout: how they become inputs.
        config: batch sizes and seed.
        share: of this process.

    Raises:
        UserError: with sharded weights each device has to get as many pairs of a step as the others.
    """
    batch_size = config.training.batch_size
    if share.in_step and batch_size % share.world:
        raise UserError(f"training.batch_size={batch_size}: with sharded weights, a multiple of {share.world} devices.")
    # With sharded weights all ranks need equally many pairs, so a short last batch is left out.
    smallest = batch_size if share.in_step else share.world
    batches = StepBatches(lengths(pairs), batch_size, config.seed, smallest)
    return StepFeed(pairs, batches, layout, share, config.training.micro_batch_size)
