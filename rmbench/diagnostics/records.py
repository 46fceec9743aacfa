"""Gradient size against distance, pair by pair, from the forward pass alone.

For a linear head the gradient of one pair's loss with respect to the head's weight is
(d loss / d r_w) h_w + (d loss / d r_l) h_l, which is loss_slope * (h_w - h_l) for a loss of the margin alone: its norm
is prediction error x weight x distance under BT and NormBT (arXiv 2512.06343, section on the head).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from accelerate.utils import gather_object
from torch import Tensor

from rmbench.config import Gradient
from rmbench.data.text import TokenPair
from rmbench.losses import LossTerms
from rmbench.modeling.layout import PairOutput

SCHEMA = pa.schema(
    [("step", pa.int64()), ("pair_id", pa.string()), ("source", pa.string()), ("section", pa.string())]
    + [
        (name, pa.float64())
        for name in (
            "margin",
            "prediction_error",
            "loss_slope",
            "distance",
            "weight",
            "loss",
            "head_gradient_norm",
            "gradient_norm",
        )
    ]
)


def head_gradient_norm(output: PairOutput, terms: LossTerms) -> Tensor:
    """||d loss_i / d head weight||, `(pairs,)`, for a linear head."""
    chosen = terms.slope_chosen[:, None] * output.embeddings_chosen.detach()
    rejected = terms.slope_rejected[:, None] * output.embeddings_rejected.detach()
    return (chosen + rejected).norm(dim=-1)


class PairRecorder:
    """diagnostics/pairs/step-N.parquet for each recorded step, one file at the end."""

    def __init__(self, folder: Path, every: int, gradient: Gradient) -> None:
        self.folder = folder / "diagnostics"
        self.every = every
        self.gradient = gradient
        self._columns: dict[str, list[Any]] = {}

    def rewind(self, after_step: int) -> None:
        """Drop what was recorded after `after_step`: a resumed run records it again."""
        whole = self.folder / "pairs.parquet"
        if whole.is_file():  # stopped between merge and the end of the run
            table = pq.read_table(whole, schema=SCHEMA)
            for step in table["step"].unique().to_pylist():
                write_parquet(self._part(step), table.filter(pc.equal(table["step"], step)))
            whole.unlink()
        for part in self._parts():
            if int(part.stem.removeprefix("step-")) > after_step:
                part.unlink()

    def wants(self, step: int) -> bool:
        """The first step, before anything has moved, and every `every`-th."""
        return self.every > 0 and (step == 1 or step % self.every == 0)

    def add(self, pairs: Sequence[TokenPair], output: PairOutput, terms: LossTerms) -> None:
        """Keep one micro-batch of this rank until `write`."""
        columns: dict[str, Any] = {
            "pair_id": [p.pair.id for p in pairs],
            "source": [p.pair.source for p in pairs],
            "section": [p.pair.section for p in pairs],
            "margin": terms.margin,
            "prediction_error": terms.prediction_error,
            "loss_slope": terms.loss_slope,
            "distance": terms.distance,
            "weight": terms.weight,
            "loss": terms.loss.detach(),
        }
        if self.gradient is Gradient.head:
            columns["head_gradient_norm"] = head_gradient_norm(output, terms)
        for name, values in columns.items():
            kept = values.double().tolist() if isinstance(values, Tensor) else values
            self._columns.setdefault(name, []).extend(kept)

    def forget(self) -> None:
        """Drop what was added since `write`: the step begins again."""
        self._columns = {}

    def write(self, step: int, is_main: bool) -> pa.Table | None:
        """Gather all ranks' rows of this step, write them atomically on rank 0 and return them there."""
        columns = {name: gather_object(values) for name, values in self._columns.items()}
        self._columns = {}
        if not is_main:
            return None
        rows = len(columns["pair_id"])
        columns["step"] = [step] * rows
        table = pa.table({f.name: pa.array(columns.get(f.name, [None] * rows), f.type) for f in SCHEMA}, SCHEMA)
        write_parquet(self._part(step), table)
        return table

    def merge(self) -> pa.Table | None:
        """All parts -> diagnostics/pairs.parquet; the parts go once the whole is on the disk."""
        parts = self._parts()
        if not parts:
            return None
        table = pa.concat_tables(pq.read_table(part, schema=SCHEMA) for part in parts)
        write_parquet(self.folder / "pairs.parquet", table)
        for part in parts:
            part.unlink()
        parts[0].parent.rmdir()
        return table

    def _part(self, step: int) -> Path:
        return self.folder / "pairs" / f"step-{step:08d}.parquet"

    def _parts(self) -> list[Path]:
        return sorted((self.folder / "pairs").glob("step-*.parquet"))


def pair_scalars(table: pa.Table) -> dict[str, float]:
    """What one recorded step says about gradient and distance, for the log.

    `share_closest_third` is the share of the summed head gradient norms that the third of the pairs with the smallest
    distances carries; 1/3 would be even.
    """
    distance, weight, norm = (_numbers(table, c) for c in ("distance", "weight", "head_gradient_norm"))
    scalars = {"mean_weight": float(weight.mean()), "mean_distance": float(distance.mean())}
    if len(norm) >= 3 and norm.sum() > 0:  # not so where the norms were not measured: NaN
        order = np.argsort(distance, kind="stable")
        third = len(order) // 3
        scalars["share_closest_third"] = float(norm[order[:third]].sum() / norm.sum())
        scalars["share_farthest_third"] = float(norm[order[-third:]].sum() / norm.sum())
        if distance.std() > 0 and norm.std() > 0:
            scalars["correlation_norm_distance"] = float(np.corrcoef(distance, norm)[0, 1])
    return scalars


def write_parquet(path: Path, table: pa.Table) -> None:
    """Atomic, parents made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    return table[column].to_numpy(zero_copy_only=False).astype(np.float64)
