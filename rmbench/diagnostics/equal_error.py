"""How a gradient norm goes with distance where the prediction error is equal, for pairs recorded during a training."""

from __future__ import annotations

import numpy as np

from rmbench.diagnostics.study import Columns, spearman_within_bins, within


def correlation_of_steps(columns: Columns, name: str) -> float:
    """`spearman_within_bins` of pairs that were recorded at several steps of a training.

    Weights and distances grow or shrink while a model learns. The distances and the norms per error of each step are
    therefore taken in units of their median. Pairs without a norm, a distance or an error are left out.
    """
    columns = {key: np.asarray(columns[key], dtype=float) for key in ("step", "distance", "prediction_error", name)}
    kept = np.isfinite(columns[name]) & (columns["distance"] > 0) & (columns["prediction_error"] > 0)
    columns = {key: values[kept] for key, values in columns.items()}
    distance, norm, error = columns["distance"].copy(), columns[name].copy(), columns["prediction_error"]
    for step in np.unique(columns["step"]):
        here = columns["step"] == step
        distance[here] /= np.median(distance[here])
        norm[here] /= np.median(norm[here] / error[here]) or 1.0
    return spearman_within_bins({"distance": distance, "prediction_error": error, name: norm}, name)


def correlation_of_a_step(distance: np.ndarray, norm: np.ndarray, error: np.ndarray) -> float:
    """Rank correlation of distance with norm per error among pairs of one step; NaN where there are no norms.

    Args:
        distance: of each pair `(pairs,)`.
        norm: the same; of pairs of one step and error they differ by the distance's part alone.
        error: prediction error, the same.
    """
    kept = error > 0
    ratio = norm[kept].astype(float) / error[kept]
    return within([np.arange(len(ratio))], distance[kept], ratio, ratio)


def correlation_by_step(columns: Columns, name: str) -> dict[int, float]:
    """Step -> rank correlation of distance with norm per error among the step's pairs; NaN where it has no norms."""
    found = {}
    for step in np.unique(columns["step"]):
        here = columns["step"] == step
        found[int(step)] = correlation_of_a_step(*(columns[c][here] for c in ("distance", name, "prediction_error")))
    return found
