"""What a table of pairs says about gradient and distance: pure functions of columns, each with an interval.

The paper's statement (arXiv 2512.06343): ||grad loss_i|| = prediction error x distance x k, where
k = ||grad(r_w - r_l)|| / ||h_w - h_l|| is 1 for only the head and sqrt(1 + (L ||w||)^2) at most for all parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rmbench.errors import UserError
from rmbench.files import Json

Columns = dict[str, np.ndarray]

RESAMPLES = 1000
FEWEST_PROMPTS = 3  # below that resampling says nothing
ERROR_BINS = 5
LEVEL = 1e-3  # norms that differ by less of the largest one are the same
PAPER_CORRELATION = 0.928  # of distance with ||grad(r_w - r_l)||, appendix C
NORMS = ("head_bt", "head_normbt", "backbone_bt", "backbone_normbt", "all_bt", "all_normbt")
REASONS = ("token_overlap", "edit_distance", "length_difference", "shared_prefix")


def study(columns: Columns, seed: int = 0, prompts: Sequence[object] | None = None) -> Json:
    """All numbers of a study as one tree; intervals are 95 %, percentile bootstrap over prompts.

    Args:
        columns: `(pairs,)` each: margin, prediction_error, distance, margin_gradient_norm (||grad(r_w - r_l)|| over
            all trained parameters), section, and those of `REASONS`.
        seed: of the bootstrap.
        prompts: what tells each pair's prompt from others; pairs of one are drawn together. None: each has its own.

    Pairs without a distance or a gradient (both sides equal to the model) are counted and left out.

    Raises:
        UserError: fewer than three are left.
    """
    usable = (columns["distance"] > 0) & (columns["margin_gradient_norm"] > 0)
    kept = {name: values[usable] for name, values in columns.items()}
    n = int(usable.sum())
    if n < 3:
        raise UserError(f"{n} of {len(usable)} pairs have a distance and a gradient; a study needs at least 3.")
    kept |= norms_by_loss(kept)
    names = [prompt for prompt, use in zip(prompts, usable, strict=True) if use] if prompts is not None else range(n)
    clusters = _clusters(names)
    found: Json = {
        "pairs": n,
        "prompts": len(clusters),
        "without_gradient": int((~usable).sum()),
        "accuracy": float((columns["margin"] > 0).mean()),
        "paper_correlation": PAPER_CORRELATION,
        "k": _spread_of_k(kept),
        "by_error_bin": by_error_bin(kept),
        "sections": by_section(kept),
    }
    for path, estimate in _estimates(kept, clusters, seed).items():
        *nodes, leaf = path
        place = found
        for node in nodes:
            place = place.setdefault(node, {})
        place[leaf] = estimate
    return found


def _clusters(names: Iterable[object]) -> list[np.ndarray]:
    """The places of equal names, each name's together, in the order in which they first come."""
    found: dict[object, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return [np.array(places) for places in found.values()]


def _estimates(columns: Columns, clusters: list[np.ndarray], seed: int) -> dict[tuple[str, ...], Json]:
    """Each of `_statistics`: its value, and its interval over resampled clusters of pairs."""
    numeric = {name: values for name, values in columns.items() if values.dtype.kind == "f"}
    numeric |= {_ratio(norm): columns[norm] / columns["prediction_error"] for norm in NORMS}
    # Ranks need no sorting in a resample where values are counted from 0 on in the order of their sizes.
    numeric |= {_places(name): np.unique(values, return_inverse=True)[1] for name, values in numeric.items()}
    n = len(clusters)
    draws = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    drawn = (np.concatenate([clusters[i] for i in draw]) for draw in draws)
    resampled = [_statistics({name: values[places] for name, values in numeric.items()}) for places in drawn]
    found = {}
    for path, value in _statistics(numeric).items():
        enough = resampled if n >= FEWEST_PROMPTS else []
        finite = np.array([each[path] for each in enough if np.isfinite(each[path])])
        low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (float("nan"),) * 2
        found[path] = {"value": none_if_nan(value), "interval": [none_if_nan(low), none_if_nan(high)]}
    return found


def _places(name: str) -> str:
    """The column of a column's whole-numbered places in order, from 0 on."""
    return f"places of {name}"


def _ratio(norm: str) -> str:
    """The column of a norm over its pair's error."""
    return f"{norm} at equal error"


def _statistics(c: Columns) -> dict[tuple[str, ...], float]:
    """Every number of the study that has an interval, under its path in the tree."""
    distance = c[_places("distance")]
    correlation, why = "correlation_of_distance_with_margin_gradient_norm", "why_close"
    values: dict[tuple[str, ...], float] = {
        (correlation, "pearson"): pearson(c["distance"], c["margin_gradient_norm"]),
        (correlation, "spearman"): spearman(distance, c[_places("margin_gradient_norm")]),
        ("k", "elasticity"): elasticity(c, "margin_gradient_norm"),
    }
    values |= {("variance_of_log_norm", name): share for name, share in variance_shares(c).items()}
    slopes = elasticities_at_fixed_error(c, NORMS)
    bins = error_bins(c[_places("prediction_error")])
    for norm in NORMS:
        ratio = _ratio(norm)
        values["at_fixed_error", norm, "elasticity_in_distance"] = slopes[norm]
        values["at_fixed_error", norm, "spearman_within_bins"] = within(bins, distance, c[ratio], c[_places(ratio)])
    reasons = [reason for reason in REASONS if reason in c]
    values |= {(why, reason): spearman(distance, c[_places(reason)]) for reason in reasons}
    values[why, "explained_together"] = explained_by_ranks(distance, [c[_places(reason)] for reason in reasons])
    return values


def norms_by_loss(columns: Columns) -> Columns:
    """Gradient norms of each pair under BT and under NormBT, of the head, the backbone and all parameters.

    NormBT's weight is mean distance / distance. The head's margin gradient norm is the distance itself.
    """
    distance, whole, error = (columns[name] for name in ("distance", "margin_gradient_norm", "prediction_error"))
    parts = {"head": distance, "backbone": np.sqrt(np.maximum(whole**2 - distance**2, 0.0)), "all": whole}
    weight = distance.mean() / distance
    return {f"{part}_bt": error * size for part, size in parts.items()} | {
        f"{part}_normbt": weight * error * size for part, size in parts.items()
    }


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """NaN where either does not vary (beyond rounding)."""
    if not len(x):
        return float("nan")
    of_x, of_y = x - x.mean(), y - y.mean()
    spread_x, spread_y = np.sqrt(of_x @ of_x), np.sqrt(of_y @ of_y)
    limit = 1e-12 * np.sqrt(len(x))
    if spread_x <= limit * (np.abs(x).max() or 1.0) or spread_y <= limit * (np.abs(y).max() or 1.0):
        return float("nan")
    return float(np.clip(of_x @ of_y / (spread_x * spread_y), -1.0, 1.0))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of `x` and `y`, ties with their mean rank."""
    return pearson(ranks(x), ranks(y))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on, ties with their mean; NaN if a value is NaN. Integers from 0 on are counted, others sorted."""
    if values.dtype.kind not in "iu":
        if np.isnan(values).any():
            return np.full(len(values), np.nan)
        values = np.unique(values, return_inverse=True)[1]
    counts = np.bincount(values)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[values])


def elasticity(columns: Columns, name: str) -> float:
    """Least-squares slope of log `name` on log distance: 1 is proportional, 0 is independent."""
    x, y = np.log(columns["distance"]), _log(columns[name])
    return float(np.cov(x, y)[0, 1] / x.var(ddof=1)) if len(x) > 1 and x.std() > 0 else float("nan")


def elasticities_at_fixed_error(columns: Columns, names: Sequence[str]) -> dict[str, float]:
    """Elasticities in the distance with the log prediction error as a second regressor."""
    x = np.stack([np.log(columns["distance"]), _log(columns["prediction_error"]), np.ones(len(columns["distance"]))])
    if x.shape[1] < 3:
        return dict.fromkeys(names, float("nan"))
    y = np.stack([_log(columns[name]) for name in names])
    return dict(zip(names, np.linalg.lstsq(x.T, y.T, rcond=None)[0][0].tolist(), strict=True))


def spearman_within_bins(columns: Columns, name: str) -> float:
    """Rank correlation of a norm with distance inside bins of equal prediction error, their mean (the paper's control).

    Norms are divided by their pair's error first: what is left of the error's spread inside a bin would tilt it. A bin
    where the norm is then the same to a thousandth (an ε in the weight, rounding) counts as 0.
    """
    error = columns["prediction_error"]
    ratio = columns[name] / error
    return within(error_bins(error), columns["distance"], ratio, ratio)


def within(bins: list[np.ndarray], distance: np.ndarray, ratio: np.ndarray, ordered: np.ndarray) -> float:
    """The mean over bins of the rank correlation of distance and ratio.

    Args:
        bins: indices of the pairs of each bin of prediction error.
        distance: of each pair.
        ratio: norm over prediction error, of each pair.
        ordered: the ratios, or their places in order.
    """
    values = []
    for where in bins:
        if len(where) > 2:
            y = ratio[where]
            level = y.std() <= LEVEL * np.abs(y).max()
            values.append(0.0 if level else spearman(distance[where], ordered[where]))
    return float(np.mean(values)) if values else float("nan")


def error_bins(error: np.ndarray) -> list[np.ndarray]:
    """Indices of the pairs in `ERROR_BINS` bins of as many pairs each, smallest error first."""
    return np.array_split(np.argsort(error, kind="stable"), ERROR_BINS)


def variance_shares(columns: Columns) -> dict[str, float]:
    """Shares of the variance of log BT norm = log error + log distance + log k: each term's covariance with it."""
    terms = {
        "prediction_error": _log(columns["prediction_error"]),
        "distance": np.log(columns["distance"]),
        "k": np.log(columns["margin_gradient_norm"] / columns["distance"]),
    }
    whole = np.sum(list(terms.values()), axis=0)
    variance = whole.var()
    if not variance > 0:
        return dict.fromkeys(terms, float("nan"))
    return {
        name: float(((term - term.mean()) * (whole - whole.mean())).mean() / variance) for name, term in terms.items()
    }


def explained_by_ranks(distance: np.ndarray, reasons: list[np.ndarray]) -> float:
    """R^2 of a linear regression of the rank of distance on the ranks of `reasons`."""
    y = ranks(distance)
    if len(y) < len(reasons) + 2 or not reasons:
        return float("nan")
    x = np.stack([*map(ranks, reasons), np.ones(len(y))], axis=1)
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - rest.var() / y.var()) if y.var() > 0 else float("nan")


def by_error_bin(columns: Columns) -> list[Json]:
    """For each bin of prediction error, mean norms of its fifths of pairs by distance, closest first."""
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
            for key in ("distance", "prediction_error", "margin_gradient_norm", "all_bt", "all_normbt")
        }
        accuracy = float((columns["margin"][where] > 0).mean())
        k = float(np.median(columns["margin_gradient_norm"][where] / columns["distance"][where]))
        table[name] = {"pairs": int(where.sum()), "accuracy": accuracy, **means, "median_k": k}
    return dict(sorted(table.items(), key=lambda item: item[1]["distance"]))


def none_if_nan(value: float) -> float | None:
    """The value, or None for a NaN, which JSON does not have."""
    return float(value) if np.isfinite(value) else None


def _spread_of_k(columns: Columns) -> Json:
    k = columns["margin_gradient_norm"] / columns["distance"]
    low, middle, high = np.percentile(k, [5, 50, 95])
    slope = float((columns["distance"] * columns["margin_gradient_norm"]).sum() / (columns["distance"] ** 2).sum())
    return {
        "fitted": slope,  # least squares through the origin
        "median": float(middle),
        "middle_90_percent": [float(low), float(high)],
        "sd_of_log": float(np.log(k).std()),
    }


def _log(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(values, 1e-300)))
