"""What a table of pairs says about gradient and distance: pure functions of columns, each with an interval.

The paper's statement (arXiv 2512.06343): ||grad loss_i|| = prediction error x distance x k, where
k = ||grad(r_w - r_l)|| / ||h_w - h_l|| is 1 for the head alone and sqrt(1 + (L ||w||)^2) at most for all parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import rankdata

from rmbench.errors import UserError

Columns = dict[str, np.ndarray]

RESAMPLES = 1000
ERROR_BINS = 5
PAPER_CORRELATION = 0.928  # of distance with gradient distance, appendix C
REASONS = ("token_overlap", "edit_distance", "length_difference", "shared_prefix")


def study(columns: Columns, seed: int = 0) -> dict[str, Any]:
    """All of the below, as one tree of numbers; an interval is 95 %, percentile bootstrap over pairs.

    Args:
        columns: `(pairs,)` each: margin, prediction_error, distance, gradient_distance (= ||grad(r_w - r_l)|| over all
            trained parameters), section, and those of `REASONS`.
        seed: of the bootstrap.

    Pairs without a distance or a gradient (both sides equal to the model) are counted and left out.

    Raises:
        UserError: fewer than three are left.
    """
    usable = (columns["distance"] > 0) & (columns["gradient_distance"] > 0)
    kept = {name: values[usable] for name, values in columns.items()}
    rng = np.random.default_rng(seed)
    n = int(usable.sum())
    if n < 3:
        raise UserError(f"{n} of {len(usable)} pairs have a distance and a gradient; a study needs at least 3.")
    draws = rng.integers(0, n, (RESAMPLES, n))

    def estimate(statistic: Callable[[Columns], float]) -> dict[str, Any]:
        """The statistic of all pairs and its interval."""
        numeric = {name: values for name, values in kept.items() if values.dtype.kind == "f"}
        resampled = [statistic({name: values[draw] for name, values in numeric.items()}) for draw in draws]
        finite = np.array([value for value in resampled if np.isfinite(value)])
        low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (float("nan"),) * 2
        return {"value": none_if_nan(statistic(numeric)), "interval": [none_if_nan(low), none_if_nan(high)]}

    kept |= norms_by_loss(kept)
    return {
        "pairs": n,
        "without_gradient": int((~usable).sum()),
        "accuracy": float((columns["margin"] > 0).mean()),
        "paper_correlation": PAPER_CORRELATION,
        "correlation_of_distance_with_gradient_distance": {
            "pearson": estimate(lambda c: pearson(c["distance"], c["gradient_distance"])),
            "spearman": estimate(lambda c: spearman(c["distance"], c["gradient_distance"])),
        },
        "k": _spread_of_k(kept) | {"elasticity": estimate(lambda c: elasticity(c, "gradient_distance"))},
        "variance_of_log_norm": {
            name: estimate(lambda c, name=name: variance_shares(c)[name])  # type: ignore[misc]
            for name in ("prediction_error", "distance", "k")
        },
        "at_fixed_error": {
            norm: {
                "elasticity_in_distance": estimate(lambda c, norm=norm: elasticity_at_fixed_error(c, norm)),  # type: ignore[misc]
                "spearman_within_bins": estimate(lambda c, norm=norm: spearman_within_bins(c, norm)),  # type: ignore[misc]
            }
            for norm in ("head_bt", "head_normbt", "backbone_bt", "backbone_normbt", "all_bt", "all_normbt")
        },
        "by_error_bin": by_error_bin(kept),
        "sections": by_section(kept),
        "why_close": {
            **{
                reason: estimate(lambda c, reason=reason: spearman(c["distance"], c[reason]))  # type: ignore[misc]
                for reason in REASONS
                if reason in kept
            },
            "explained_together": estimate(lambda c: explained_by_ranks(c, [r for r in REASONS if r in c])),
        },
    }


def norms_by_loss(columns: Columns) -> Columns:
    """Gradient norms of each pair under BT and under NormBT, of the head, the backbone and all parameters.

    NormBT's weight is mean distance / distance. The head's gradient distance is the distance itself.
    """
    distance, whole, error = (columns[name] for name in ("distance", "gradient_distance", "prediction_error"))
    parts = {"head": distance, "backbone": np.sqrt(np.maximum(whole**2 - distance**2, 0.0)), "all": whole}
    weight = distance.mean() / distance
    return {f"{part}_bt": error * size for part, size in parts.items()} | {
        f"{part}_normbt": weight * error * size for part, size in parts.items()
    }


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """NaN where either does not vary (beyond rounding)."""
    spread = min(x.std() / (np.abs(x).max() or 1.0), y.std() / (np.abs(y).max() or 1.0)) if len(x) else 0.0
    return float(np.corrcoef(x, y)[0, 1]) if spread > 1e-12 else float("nan")


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Of ranks, ties sharing their mean."""
    return pearson(rankdata(x), rankdata(y))


def elasticity(columns: Columns, name: str) -> float:
    """Least-squares slope of log `name` on log distance: 1 is proportional, 0 is independent."""
    x, y = np.log(columns["distance"]), _log(columns[name])
    return float(np.cov(x, y)[0, 1] / x.var(ddof=1)) if len(x) > 1 and x.std() > 0 else float("nan")


def elasticity_at_fixed_error(columns: Columns, name: str) -> float:
    """The same with log prediction error beside it: what distance does where the error is equal."""
    x = np.stack([np.log(columns["distance"]), _log(columns["prediction_error"]), np.ones(len(columns["distance"]))])
    y = _log(columns[name])
    return float(np.linalg.lstsq(x.T, y, rcond=None)[0][0]) if len(y) > 2 else float("nan")


def spearman_within_bins(columns: Columns, name: str) -> float:
    """Rank correlation of a norm with distance inside bins of equal prediction error, their mean (the paper's control).

    Norms are divided by their pair's error first: what is left of the error's spread inside a bin would tilt it. A bin
    where the norm is then one and the same counts as 0.
    """
    ratio = columns[name] / columns["prediction_error"]
    values = []
    for where in error_bins(columns["prediction_error"]):
        if len(where) > 2:
            x, y = columns["distance"][where], ratio[where]
            level = y.std() <= 1e-6 * np.abs(y).max()
            values.append(0.0 if level else spearman(x, y))
    return float(np.mean(values)) if values else float("nan")


def error_bins(error: np.ndarray) -> list[np.ndarray]:
    """Indices of the pairs in `ERROR_BINS` bins of as many pairs each, smallest error first."""
    return np.array_split(np.argsort(error, kind="stable"), ERROR_BINS)


def variance_shares(columns: Columns) -> dict[str, float]:
    """Of the variance of log BT norm = log error + log distance + log k: each term's covariance with it; sum 1."""
    terms = {
        "prediction_error": _log(columns["prediction_error"]),
        "distance": np.log(columns["distance"]),
        "k": np.log(columns["gradient_distance"] / columns["distance"]),
    }
    whole = np.sum(list(terms.values()), axis=0)
    variance = whole.var()
    if not variance > 0:
        return dict.fromkeys(terms, float("nan"))
    return {
        name: float(((term - term.mean()) * (whole - whole.mean())).mean() / variance) for name, term in terms.items()
    }


def explained_by_ranks(columns: Columns, names: list[str]) -> float:
    """R^2 of a linear regression of the rank of distance on the ranks of `names`."""
    y = rankdata(columns["distance"])
    if len(y) < len(names) + 2 or not names:
        return float("nan")
    x = np.stack([*(rankdata(columns[name]) for name in names), np.ones(len(y))], axis=1)
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - rest.var() / y.var()) if y.var() > 0 else float("nan")


def by_error_bin(columns: Columns) -> list[dict[str, Any]]:
    """In each bin of prediction error, mean norms of its closest to its farthest fifth of pairs."""
    rows = []
    for where in error_bins(columns["prediction_error"]):
        order = where[np.argsort(columns["distance"][where], kind="stable")]
        fifths = [part for part in np.array_split(order, 5) if len(part)]
        if fifths:
            rows.append(
                {
                    "error": [
                        float(columns["prediction_error"][where].min()),
                        float(columns["prediction_error"][where].max()),
                    ],
                    "distance": [float(columns["distance"][part].mean()) for part in fifths],
                    **{
                        name: [float(columns[name][part].mean()) for part in fifths]
                        for name in ("all_bt", "all_normbt")
                    },
                }
            )
    return rows


def by_section(columns: Columns) -> dict[str, dict[str, float]]:
    """Means of each section, closest first."""
    sections = columns["section"]
    table = {}
    for name in sorted(set(sections.tolist())):
        where = sections == name
        means = {
            key: float(columns[key][where].mean())
            for key in ("distance", "prediction_error", "gradient_distance", "all_bt", "all_normbt")
        }
        accuracy = float((columns["margin"][where] > 0).mean())
        k = float(np.median(columns["gradient_distance"][where] / columns["distance"][where]))
        table[name] = {"pairs": int(where.sum()), "accuracy": accuracy, **means, "median_k": k}
    return dict(sorted(table.items(), key=lambda item: item[1]["distance"]))


def none_if_nan(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None


def _spread_of_k(columns: Columns) -> dict[str, Any]:
    k = columns["gradient_distance"] / columns["distance"]
    low, middle, high = np.percentile(k, [5, 50, 95])
    slope = float((columns["distance"] * columns["gradient_distance"]).sum() / (columns["distance"] ** 2).sum())
    return {
        "fitted": slope,  # least squares through the origin
        "median": float(middle),
        "middle_90_percent": [float(low), float(high)],
        "sd_of_log": float(np.log(k).std()),
    }


def _log(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(values, 1e-300)))
