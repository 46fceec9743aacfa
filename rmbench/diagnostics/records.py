"""Gradient size against distance, pair by pair, of the steps of a run that are recorded.

For a linear head the gradient of one pair's loss with respect to the head's weight is
(d loss / d r_w) h_w + (d loss / d r_l) h_l, which is loss_slope * (h_w - h_l) for a loss of the margin alone: its norm
is prediction error x weight x distance under BT and NormBT (arXiv 2512.06343, section on the head). It follows from
the forward pass; the norm over all trained parameters is measured in the step's own backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate.utils import gather_object
from torch import Tensor

from rmbench.config import Gradient
from rmbench.data.text import TokenPair
from rmbench.diagnostics.gradients import GradientNorms, PairGradients
from rmbench.diagnostics.shards import Parts
from rmbench.losses import LossTerms
from rmbench.modeling.layout import PairOutput

NUMBERS = (
    "margin",
    "prediction_error",
    "loss_slope",
    "distance",
    "weight",
    "loss",
    "head_gradient_norm",
    "gradient_norm",
)
SCHEMA = pa.schema(
    [("step", pa.int64()), ("pair_id", pa.string()), ("source", pa.string()), ("section", pa.string())]
    + [(name, pa.float64()) for name in NUMBERS]
)


def head_gradient_norm(output: PairOutput, terms: LossTerms) -> Tensor:
    """||d loss_i / d head weight||, `(pairs,)`, for a linear head."""
    chosen = terms.slope_chosen[:, None] * output.embeddings_chosen.detach()
    rejected = terms.slope_rejected[:, None] * output.embeddings_rejected.detach()
    return (chosen + rejected).norm(dim=-1)


def pair_columns(pairs: Sequence[TokenPair], output: PairOutput, terms: LossTerms) -> dict[str, list[Any]]:
    """What a forward pass says of each pair, under the names of `SCHEMA`."""
    numbers = {
        "margin": terms.margin,
        "prediction_error": terms.prediction_error,
        "loss_slope": terms.loss_slope,
        "distance": terms.distance,
        "weight": terms.weight,
        "loss": terms.loss.detach(),
    }
    return {
        "pair_id": [p.pair.id for p in pairs],
        "source": [p.pair.source for p in pairs],
        "section": [p.pair.section for p in pairs],
        **{name: values.cpu().double().tolist() for name, values in numbers.items()},
    }


class Gathered:
    """Columns of this rank's pairs, micro-batch by micro-batch, until all ranks' become one table."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}

    def add(self, columns: dict[str, list[Any]]) -> None:
        """The pairs of one micro-batch."""
        for name, values in columns.items():
            self.columns.setdefault(name, []).extend(values)

    def gathered(self) -> dict[str, list[Any]]:
        """Those of all ranks; this rank's are gone."""
        columns, self.columns = {name: gather_object(values) for name, values in self.columns.items()}, {}
        return columns


class PairRecorder:
    """The pairs of each recorded step, in diagnostics/pairs.

    Args:
        folder: the run's.
        every: record the first step and every so many; 0 is never.
        gradient: which norms.
        gradients: measures those over all parameters; for `Gradient.exact`.
    """

    def __init__(self, folder: Path, every: int, gradient: Gradient, gradients: PairGradients | None = None) -> None:
        self.parts = Parts(folder / "diagnostics", "pairs", SCHEMA)
        self.every, self.gradient, self.gradients = every, gradient, gradients
        self._rows, self._blocks = Gathered(), Gathered()

    def wants(self, step: int) -> bool:
        """The first step, before anything has moved, and every `every`-th."""
        return self.every > 0 and (step == 1 or step % self.every == 0)

    def add(
        self, pairs: Sequence[TokenPair], output: PairOutput, terms: LossTerms, measured: GradientNorms | None = None
    ) -> None:
        """Keep one micro-batch of this rank until `write`; `measured` are the gradients of its losses."""
        columns = pair_columns(pairs, output, terms)
        if self.gradient is not Gradient.off:
            columns["head_gradient_norm"] = head_gradient_norm(output, terms).cpu().double().tolist()
        if measured is not None:
            columns["gradient_norm"] = measured.norms.cpu().double().tolist()
            self._blocks.add(measured.block_shares())
        self._rows.add(columns)

    def forget(self) -> None:
        """Drop what was added since `write`: the step begins again."""
        self._rows, self._blocks = Gathered(), Gathered()

    def write(self, step: int, is_main: bool) -> dict[str, float]:
        """Gather all ranks' rows of this step and write them on rank 0; what they say, for the log, there."""
        columns, blocks = self._rows.gathered(), self._blocks.gathered()
        if not is_main:
            return {}
        table = as_table(SCHEMA, step, columns)
        self.parts.write(step, table)
        return pair_scalars(table) | block_scalars("gradient", blocks)

    def merge(self) -> pa.Table | None:
        """All recorded steps, in diagnostics/pairs.parquet."""
        return self.parts.merge()


def as_table(schema: pa.Schema, step: int, columns: dict[str, list[Any]]) -> pa.Table:
    """The columns of one step; those that were not measured are null."""
    rows = len(columns["pair_id"])
    filled = columns | {"step": [step] * rows}
    return pa.table({f.name: pa.array(filled.get(f.name, [None] * rows), f.type) for f in schema}, schema)


def pair_scalars(table: pa.Table) -> dict[str, float]:
    """What one recorded step says about gradient and distance, for the log.

    `share_closest_third` is the share of the summed head gradient norms that the third of the pairs with the smallest
    distances carries; 1/3 would be even. The same under `gradient/` for the norms over all trained parameters.
    """
    distance, weight = (numbers(table, c) for c in ("distance", "weight"))
    scalars = {"mean_weight": float(weight.mean()), "mean_distance": float(distance.mean())}
    scalars |= norm_scalars(distance, numbers(table, "head_gradient_norm"))
    whole = norm_scalars(distance, numbers(table, "gradient_norm"))
    return scalars | {f"gradient/{name}": value for name, value in whole.items()}


def norm_scalars(distance: np.ndarray, norm: np.ndarray) -> dict[str, float]:
    """Shares of the closest and the farthest third, and the correlation; empty where norms were not measured."""
    scalars = {}
    if len(norm) >= 3 and norm.sum() > 0:  # not so for NaN
        order = np.argsort(distance, kind="stable")
        third = len(order) // 3
        scalars["share_closest_third"] = float(norm[order[:third]].sum() / norm.sum())
        scalars["share_farthest_third"] = float(norm[order[-third:]].sum() / norm.sum())
        if distance.std() > 0 and norm.std() > 0:
            scalars["correlation_norm_distance"] = float(np.corrcoef(distance, norm)[0, 1])
    return scalars


def block_scalars(prefix: str, shares: dict[str, list[float]]) -> dict[str, float]:
    """Mean share of each part of the network in a pair's squared gradient norm, over the pairs that have one."""
    known = {block: values for block, values in shares.items() if values}
    return {f"{prefix}/share/{block.replace(' ', '_')}": float(np.mean(values)) for block, values in known.items()}


def numbers(table: pa.Table, column: str) -> np.ndarray:
    """A column as float64; null is NaN."""
    return np.asarray(table[column].to_numpy(zero_copy_only=False), dtype=np.float64)
