"""What margins say beside who wins: calibration, spread, and whether distance or length decides."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from rmbench.files import Json

CALIBRATION_BINS = 15
QUANTILE_BINS = 5
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def calibration(margin: np.ndarray) -> dict[str, float]:
    """Log-loss, Brier score and expected calibration error of sigma(margin) as the probability that chosen wins.

    Chosen is the better one throughout, so the model's verdict is right where the margin is above 0, with confidence
    sigma(|margin|); ECE (arXiv 1706.04599) has 15 equal bins of confidence from 0.5 to 1.
    """
    confidence, right = expit(np.abs(margin)), np.where(margin == 0, 0.5, margin > 0)
    bins = np.minimum(((confidence - 0.5) * 2 * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [abs(float((right - confidence)[bins == b].sum())) for b in range(CALIBRATION_BINS)]
    return {
        "log_loss": float(np.logaddexp(0.0, -margin).mean()),
        "brier": float((expit(-margin) ** 2).mean()),
        "ece": sum(gaps) / len(margin),
    }


def distribution(margin: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation and quantiles of the margins `(comparisons,)`."""
    quantiles = dict(zip((f"q{round(100 * q):02d}" for q in QUANTILES), np.quantile(margin, QUANTILES), strict=True))
    return {name: float(v) for name, v in {"mean": margin.mean(), "sd": margin.std(), **quantiles}.items()}


def length_bias(margin: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> Json:
    """Accuracy where chosen is longer and where it is shorter, by bins of the length difference; Spearman's rho.

    Args:
        margin: `(comparisons,)`.
        chosen: characters of the chosen response; `rejected` likewise.
    """
    from scipy.stats import spearmanr

    longer = chosen - rejected
    varies = len(margin) > 2 and np.ptp(longer) > 0 and np.ptp(margin) > 0
    return {
        "unit": "characters",
        "chosen_longer": accuracy(margin[longer > 0]),
        "chosen_shorter": accuracy(margin[longer < 0]),
        "same_length": accuracy(margin[longer == 0]),
        "rank_correlation": float(spearmanr(longer, margin).statistic) if varies else None,
        "bins": binned_accuracy(margin, longer),
    }


def binned_accuracy(margin: np.ndarray, by: np.ndarray, bins: int = QUANTILE_BINS) -> list[Json]:
    """Accuracy in bins of equal size of `by` `(comparisons,)`, the lowest first; fewer bins where values repeat."""
    edges = np.unique(np.quantile(by, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, by, side="right") - 1, 0, max(len(edges) - 2, 0))
    return [
        {"low": float(by[inside].min()), "high": float(by[inside].max()), **accuracy(margin[inside])}
        for inside in (place == b for b in range(max(len(edges) - 1, 1)))
        if inside.any()
    ]


def accuracy(margin: np.ndarray) -> Json:
    """Share of margins `(comparisons,)` above 0 with its 95 % Wilson interval; None if there are none."""
    wins, n = int((margin > 0).sum()), len(margin)
    if n == 0:
        return {"n": 0, "accuracy": None, "interval": None}
    from scipy.stats import binomtest

    interval = binomtest(wins, n).proportion_ci(0.95, method="wilson")
    return {"n": n, "accuracy": wins / n, "interval": [float(interval.low), float(interval.high)]}
