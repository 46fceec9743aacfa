"""Embeddings of a frozen backbone: computed once, kept on disk, read by every run that has the same ones.

An entry of the cache is named after what its numbers follow from: the backbone's weights and config, the token ids of
the groups, the precision, the layout.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rmbench.config import BackboneConfig
from rmbench.console import progress
from rmbench.data.cache import Cache, Entry, entry_name
from rmbench.data.text import TokenGroup
from rmbench.modeling.layout import BatchInputs, Layout
from rmbench.modeling.model import RewardModel, described, fingerprint
from rmbench.modeling.scoring import ForwardPasses, forward_groups

logger = logging.getLogger(__name__)

# Raise it when the same weights, token ids and layout give other embeddings, by more than rounding.
VERSION = 1
TABLE = "table.npy"


class Features:
    """The layout of groups with cached embeddings: a forward pass computes only the head.

    Args:
        places: by a group's id, the rows of the table that are its responses'.
        table: embeddings `(responses, hidden)`, float32; of pairs: pair 0 chosen, pair 0 rejected, pair 1 chosen, ...
        entry: what keeps the table from being pruned.
    """

    name = "features"
    pads = False
    unread: int | None = None

    def __init__(self, places: dict[str, range], table: np.ndarray, entry: Entry) -> None:
        self.table, self._entry = table, entry
        self._places = places

    def cost(self, group: TokenGroup) -> int:
        """The cost of a group, always 1: no token is computed."""
        return 1

    def inputs(self, groups: Sequence[TokenGroup]) -> BatchInputs:
        """Embeddings `(responses, hidden)` and no tokens."""
        embeddings = self.table[[place for group in groups for place in self._places[group.id]]]
        nothing = torch.zeros(0, dtype=torch.long)
        return BatchInputs(
            input_ids=nothing, pooled_positions=nothing, embeddings=torch.from_numpy(np.ascontiguousarray(embeddings))
        )


class Pooling(torch.nn.Module):
    """A model that returns the input of its head as embeddings."""

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: BatchInputs) -> tuple[Tensor, Tensor]:
        """Empty rewards, and the head's inputs `(responses, hidden)` as embeddings."""
        pooled = self.model.pool(inputs)
        return torch.zeros(len(pooled), device=pooled.device), pooled


@dataclass
class FeatureStore:
    """The cached embeddings of one frozen backbone, in the folder `cache`."""

    cache: Cache
    model: RewardModel
    device: torch.device
    precision: str
    budget_tokens: int | None

    def __post_init__(self) -> None:
        self.backbone = fingerprint(self.model, head=False)
        self.config = described(self.model)

    def features(self, groups: Sequence[TokenGroup], layout: Layout, name: str) -> Features:
        """A layout with the groups' embeddings, computed if they are not on disk.

        Raises:
            UserError: a single group does not fit into memory.
        """
        name_of_entry, places = self._read(groups, layout)
        entry = self.cache.entry(name_of_entry, lambda folder: self._compute(groups, layout, name, folder / TABLE))
        origin = "written to" if entry.new else "read from"
        logger.info("%s: embeddings of the frozen backbone %s %s", name, origin, entry.path)
        return Features(places, np.load(entry.path / TABLE, mmap_mode="r"), entry)

    def _read(self, groups: Sequence[TokenGroup], layout: Layout) -> tuple[str, dict[str, range]]:
        """Name of the cache entry, and each group's rows in it; one entry per layout, as layouts differ by rounding."""
        digest = hashlib.sha256()
        places, end = {}, 0
        for group in groups:
            digest.update(json.dumps(group.sequences).encode())
            places[group.id] = range(end, end + len(group.sequences))
            end += len(group.sequences)
        follows_from = [self.backbone, self.config, self.precision, layout.name, digest.hexdigest()]
        return entry_name("features", [VERSION], *follows_from), places

    def _compute(self, groups: Sequence[TokenGroup], layout: Layout, name: str, path: Path) -> None:
        """Compute the embeddings batch by batch into a memory-mapped file.

        Args:
            groups: whose embeddings are wanted.
            layout: how they become inputs.
            name: of the pairs, for the progress bar.
            path: of the file: `(responses, hidden)` float32.
        """
        ends = np.cumsum([len(group.sequences) for group in groups])
        shape = (int(ends[-1]), self.model.pooled_size)
        table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        done, passes = 0, ForwardPasses(Pooling(self.model), layout, self.device, self.budget_tokens)
        with progress(f"embeddings, {name}", len(groups)) as advance:
            for indices, _, embeddings in forward_groups(passes, groups):
                rows = [np.arange(ends[i] - len(groups[i].sequences), ends[i]) for i in indices]
                table[np.concatenate(rows)] = embeddings.float().cpu().numpy()
                done += len(indices)
                advance(done)
        table.flush()


def feature_cache(config: BackboneConfig) -> Cache:
    """The cache folder for embeddings of frozen backbones."""
    return Cache(Path(config.feature_cache), config.feature_cache_limit_gib, "backbone.feature_cache")
