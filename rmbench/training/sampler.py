"""Which pairs go into which optimiser step: a function of (seed, step) alone, so a run can go on anywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

# Pairs are sorted by length within this many batches: long enough to save padding, short enough to stay random.
BATCHES_PER_SORT = 32


class StepBatches:
    """Global batches of pairs of similar length; each epoch sees every pair once, in an order of (seed, epoch).

    A last batch with fewer than `smallest` pairs is left out: a device without a pair would keep the others waiting.

    Args:
        lengths: of each pair, in tokens.
        batch_size: pairs of a step, over all processes.
        seed: of the order.
        smallest: the least pairs of a last batch.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int, smallest: int = 1) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.used = len(lengths) if len(lengths) % batch_size >= smallest else len(lengths) // batch_size * batch_size
        self.steps_per_epoch = -(-self.used // batch_size)
        self._epoch: tuple[int, list[list[int]]] | None = None

    def at(self, step: int) -> list[int]:
        """Indices of the pairs of optimiser step `step`, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._batches(epoch))
        return self._epoch[1][position]

    def _batches(self, epoch: int) -> list[list[int]]:
        generator = random.Random(f"{self.seed}-{epoch}")  # of its own: models and noise must not shift the order
        order = list(range(len(self.lengths)))
        generator.shuffle(order)
        order = order[: self.used]  # after shuffling, so that each epoch leaves out other pairs
        span = self.batch_size * BATCHES_PER_SORT
        batches = []
        for start in range(0, len(order), span):
            chunk = sorted(order[start : start + span], key=lambda i: self.lengths[i])
            batches += [chunk[i : i + self.batch_size] for i in range(0, len(chunk), self.batch_size)]
        generator.shuffle(batches)  # or lengths would rise, window after window
        return batches
