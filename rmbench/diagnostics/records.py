"""Gradient size against distance, pair by pair, of the steps of a run that are recorded.

A step brings its own forward and backward passes; what they say of each pair is `measure.Measured`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from rmbench.config import Gradient
from rmbench.data.text import TokenPair
from rmbench.diagnostics.equal_error import correlation_of_a_step
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.measure import SCHEMA, Measured, Rows, as_table
from rmbench.diagnostics.shards import Parts
from rmbench.diagnostics.thirds import thirds


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
        self._rows = Rows()

    def wants(self, step: int) -> bool:
        """The first step, before anything has moved, and every `every`-th."""
        return self.every > 0 and (step == 1 or step % self.every == 0)

    def add(self, pairs: Sequence[TokenPair], measured: Measured) -> None:
        """Keep one micro-batch of this rank until `write`."""
        self._rows.add(measured.columns(pairs, head=self.gradient is not Gradient.off), measured.of_loss)

    def forget(self) -> None:
        """Drop what was added since `write`: the step begins again."""
        self._rows = Rows()

    def write(self, step: int, is_main: bool) -> dict[str, float]:
        """Gather all ranks' rows of this step and write them on rank 0; scalars for the log, there."""
        rows = self._rows.gathered()
        self.forget()
        if not is_main:
            return {}
        table = as_table(step, rows.columns)
        self.parts.write(step, table)
        return pair_scalars(table) | block_scalars("gradient", rows.blocks)

    def merge(self) -> pa.Table | None:
        """Write all recorded steps to diagnostics/pairs.parquet; returns the table."""
        return self.parts.merge()


def pair_scalars(table: pa.Table) -> dict[str, float]:
    """Scalars of one recorded step about gradient and distance, for the log.

    `share_closest_third` is the share of the summed head gradient norms that the third of the pairs with the smallest
    distances carries; 1/3 would be even. The same under `gradient/` for the norms over all trained parameters.
    """
    distance, weight, error = (numbers(table, c) for c in ("distance", "weight", "prediction_error"))
    scalars = {"mean_weight": float(weight.mean()), "mean_distance": float(distance.mean())}
    scalars |= norm_scalars(distance, numbers(table, "head_gradient_norm"), error)
    whole = norm_scalars(distance, numbers(table, "gradient_norm"), error)
    return scalars | {f"gradient/{name}": value for name, value in whole.items()}


def norm_scalars(distance: np.ndarray, norm: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Shares of the closest and the farthest third, correlations with distance; empty where norms were not measured.

    Args:
        distance: of each pair `(pairs,)`.
        norm: of its gradient.
        error: its prediction error.
    """
    scalars = {}
    if len(norm) >= 3 and norm.sum() > 0:  # not so for NaN
        parts = thirds(distance)
        scalars["share_closest_third"] = float(norm[parts.closest].sum() / norm.sum())
        scalars["share_farthest_third"] = float(norm[parts.farthest].sum() / norm.sum())
        if distance.std() > 0 and norm.std() > 0:
            scalars["correlation_norm_distance"] = float(np.corrcoef(distance, norm)[0, 1])
        scalars["rank_correlation_at_equal_error"] = correlation_of_a_step(distance, norm, error)
    return scalars


def block_scalars(prefix: str, shares: dict[str, list[float]]) -> dict[str, float]:
    """Mean share of each part of the network in a pair's squared gradient norm, over the pairs that have one."""
    known = {block: values for block, values in shares.items() if values}
    return {f"{prefix}/share/{block.replace(' ', '_')}": float(np.mean(values)) for block, values in known.items()}


def numbers(table: pa.Table, column: str) -> np.ndarray:
    """A column as float64; null is NaN."""
    return np.asarray(table[column].to_numpy(zero_copy_only=False), dtype=np.float64)
