"""Embeddings of a frozen backbone: computed once, kept on disk, read by every run that has the same ones.

A file is named after what its numbers follow from: the backbone's weights and config, the token ids of the groups, the
precision.
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
from torch import Tensor

from rmbench.console import progress
from rmbench.data.text import TokenGroup
from rmbench.modeling.layout import BatchInputs, Layout
from rmbench.modeling.model import RewardModel, described, fingerprint
from rmbench.modeling.scoring import forward_groups

logger = logging.getLogger(__name__)


class Features:
    """The layout of groups whose embeddings are known: a forward pass is the head alone.

    Args:
        places: by a group's id, the rows of the table that are its responses'.
        table: embeddings `(responses, hidden)`, float32; of pairs: pair 0 chosen, pair 0 rejected, pair 1 chosen, ...
    """

    name = "features"
    pads = False
    unread = None

    def __init__(self, places: dict[str, range], table: np.ndarray) -> None:
        self.table = table
        self._places = places

    def cost(self, group: TokenGroup) -> int:
        """No token is computed; one group counts as one."""
        return 1

    def inputs(self, groups: Sequence[TokenGroup]) -> BatchInputs:
        """Embeddings `(responses, hidden)` and no tokens."""
        embeddings = self.table[[place for group in groups for place in self._places[group.id]]]
        nothing = torch.zeros(0, dtype=torch.long)
        return BatchInputs(
            input_ids=nothing, pooled_positions=nothing, embeddings=torch.from_numpy(np.ascontiguousarray(embeddings))
        )


class Pooling(torch.nn.Module):
    """A model whose embeddings are what its head takes, whatever the head makes of it."""

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: BatchInputs) -> tuple[Tensor, Tensor]:
        """No rewards."""
        pooled = self.model.pool(rows)
        return torch.zeros(len(pooled), device=pooled.device), pooled


@dataclass
class FeatureStore:
    """The embeddings of one backbone below `folder`."""

    folder: Path
    model: RewardModel
    device: torch.device
    precision: str
    budget_tokens: int | None

    def __post_init__(self) -> None:
        self.backbone = fingerprint(self.model, head=False)
        self.config = described(self.model)

    def features(self, groups: Sequence[TokenGroup], layout: Layout, name: str) -> Features:
        """The groups' embeddings, from disk if they are there.

        Raises:
            UserError: a single group does not fit into memory.
        """
        key, places = self._read(groups, layout)
        path = self.folder / f"{key}.npy"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if path.is_file():
                logger.info("%s: embeddings of the frozen backbone read from %s", name, path)
            else:
                self._compute(groups, layout, name, path)
        return Features(places, np.load(path, mmap_mode="r"))

    def _read(self, groups: Sequence[TokenGroup], layout: Layout) -> tuple[str, dict[str, range]]:
        """The file's name, and each group's rows in it. Layouts agree to rounding only, so each has its own file."""
        digest = hashlib.sha256(json.dumps([self.backbone, self.config, self.precision, layout.name]).encode())
        places, end = {}, 0
        for group in groups:
            digest.update(json.dumps(group.sequences).encode())
            places[group.id] = range(end, end + len(group.sequences))
            end += len(group.sequences)
        return digest.hexdigest()[:24], places

    def _compute(self, groups: Sequence[TokenGroup], layout: Layout, name: str, path: Path) -> None:
        """Written under another name, which is given up for the right one when all is on the disk."""
        partial = path.with_name(f".{path.name}.partial")
        ends = np.cumsum([len(group.sequences) for group in groups])
        shape = (int(ends[-1]), self.model.pooled_size)
        table = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        done, pooling = 0, Pooling(self.model)
        with progress(f"embeddings, {name}", len(groups)) as advance:
            for indices, _, embeddings in forward_groups(pooling, groups, layout, self.device, self.budget_tokens):
                rows = [np.arange(ends[i] - len(groups[i].sequences), ends[i]) for i in indices]
                table[np.concatenate(rows)] = embeddings.float().cpu().numpy()
                done += len(indices)
                advance(done)
        table.flush()
        del table
        os.replace(partial, path)
        logger.info("%s: embeddings of the frozen backbone written to %s", name, path)
