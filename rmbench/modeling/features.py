"""Embeddings of a frozen backbone: computed once, kept on disk, read by every run that has the same ones.

A file is named after what its numbers follow from: the backbone's weights, the token ids of the pairs, the precision.
Runs in other processes that want the same file wait for the first to write it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from rmbench.console import progress
from rmbench.data.text import TokenPair
from rmbench.modeling.layout import Layout, Rows
from rmbench.modeling.model import RewardModel, fingerprint
from rmbench.modeling.scoring import forward_all

logger = logging.getLogger(__name__)


class Features:
    """The layout of pairs whose embeddings are known: a forward pass is the head alone.

    Args:
        pairs: the pairs of the table, in its order.
        table: embeddings `(2 * pairs, hidden)`, float32, pair 0 chosen, pair 0 rejected, pair 1 chosen, ...
    """

    name = "features"
    fills_up = False

    def __init__(self, pairs: Sequence[TokenPair], table: np.ndarray) -> None:
        self.table = table
        self._row = {pair.pair.id: 2 * i for i, pair in enumerate(pairs)}

    def cost(self, pair: TokenPair) -> int:
        """No token is computed; one pair counts as one."""
        return 1

    def rows(self, pairs: Sequence[TokenPair]) -> Rows:
        """Embeddings `(2 * pairs, hidden)` and no tokens."""
        first = np.array([self._row[pair.pair.id] for pair in pairs])
        embeddings = self.table[np.stack([first, first + 1], axis=1).ravel()]
        nothing = torch.zeros(0, dtype=torch.long)
        return Rows(input_ids=nothing, read=nothing, embeddings=torch.from_numpy(np.ascontiguousarray(embeddings)))


@dataclass
class FeatureStore:
    """The embeddings of one backbone below `folder`."""

    folder: Path
    model: RewardModel
    device: torch.device
    precision: str
    budget_tokens: int

    def __post_init__(self) -> None:
        self.backbone = fingerprint(self.model, head=False)

    def features(self, pairs: Sequence[TokenPair], layout: Layout, name: str) -> Features:
        """The pairs' embeddings, from disk if they are there.

        Raises:
            UserError: a single pair does not fit into memory.
        """
        path = self.folder / f"{self._key(pairs, layout)}.npy"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if path.is_file():
                logger.info("%s: embeddings of the frozen backbone read from %s", name, path)
            else:
                self._compute(pairs, layout, name, path)
        return Features(pairs, np.load(path, mmap_mode="r"))

    def _compute(self, pairs: Sequence[TokenPair], layout: Layout, name: str, path: Path) -> None:
        """Written under another name, which is given up for the right one when all is on the disk."""
        partial = path.with_name(f".{path.name}.partial")
        shape = (2 * len(pairs), self.model.head.in_features)
        table = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        done = 0
        with progress(f"embeddings, {name}", len(pairs)) as advance:
            for indices, out in forward_all(self.model, pairs, layout, self.device, self.budget_tokens):
                rows = 2 * np.array(indices)
                table[rows] = out.embeddings_chosen.float().cpu().numpy()
                table[rows + 1] = out.embeddings_rejected.float().cpu().numpy()
                done += len(indices)
                advance(done)
        table.flush()
        del table
        os.replace(partial, path)
        logger.info("%s: embeddings of the frozen backbone written to %s", name, path)

    def _key(self, pairs: Sequence[TokenPair], layout: Layout) -> str:
        """The layouts agree to rounding only, so each has its own file."""
        digest = hashlib.sha256(json.dumps([self.backbone, self.precision, layout.name]).encode())
        for pair in pairs:
            digest.update(json.dumps([pair.chosen, pair.rejected]).encode())
        return digest.hexdigest()[:24]
