"""Best of K and the area under the ROC curve, of answers that are right or wrong (arXiv 2410.14872)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

ORDERS = 100  # PPE draws as many; its seed is not published, so `max` and `loss` equal its own up to the draw


class Answers(NamedTuple):
    """Scores and correctness of a question's answers, in the order in which they were given."""

    scores: Sequence[float]
    truth: Sequence[bool]


class BestOfK(NamedTuple):
    """Accuracy of the answer with the highest score among the first K; the first one of equal scores.

    Args:
        max: the curve's highest point, averaged over the orders.
        end: at K = all answers, averaged over the orders.
        loss: mean squared distance from the curve that finds a right answer wherever there is one.
        curve: by K from 1 on, averaged over the orders.
    """

    max: float
    end: float
    loss: float
    curve: list[float]


def best_of_k(questions: Sequence[Answers], orders: Iterable[Sequence[int]] | None = None) -> BestOfK | None:
    """The best-of-K curve over random orders of the answers; None if questions differ in their number of answers.

    A NaN is below every other score.
    """
    sizes = {len(question.scores) for question in questions}
    if len(sizes) != 1:
        return None
    n = sizes.pop()
    draw = np.random.default_rng(0)
    drawn = [draw.permutation(n) for _ in range(ORDERS)] if orders is None else [np.array(order) for order in orders]
    scores = np.array([question.scores for question in questions], dtype=float)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    truth = np.array([question.truth for question in questions], dtype=float)
    found = [_curve(scores[:, order], truth[:, order]) for order in drawn]
    curve, oracle = (np.array(part) for part in zip(*found, strict=True))
    return BestOfK(
        max=float(curve.max(axis=1).mean()),
        end=float(curve[:, -1].mean()),
        loss=float(((oracle - curve) ** 2).mean()),
        curve=[float(value) for value in curve.mean(axis=0)],
    )


def _curve(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By K, the accuracy of the best-scored answer so far and of an oracle; both `(questions, n)`."""
    highest = np.maximum.accumulate(scores, axis=1)
    higher = scores[:, 1:] > highest[:, :-1]
    places = np.where(higher, np.arange(1, scores.shape[1]), 0)
    best = np.maximum.accumulate(np.pad(places, ((0, 0), (1, 0))), axis=1)
    picked = np.take_along_axis(truth, best, axis=1)
    return picked.mean(axis=0), np.maximum.accumulate(truth, axis=1).mean(axis=0)


def auc(questions: Sequence[Answers]) -> float | None:
    """Area under the ROC curve over all answers, after each question's scores are scaled to 0 ... 1.

    Where all of a question's scores are equal they become 0.5. None where a score is not finite.
    """
    from scipy.stats import rankdata

    scaled = [_scaled(np.array(question.scores, dtype=float)) for question in questions]
    scores = np.concatenate(scaled)
    truth = np.concatenate([np.array(question.truth, dtype=bool) for question in questions])
    if not np.isfinite(scores).all():
        return None
    right, wrong = int(truth.sum()), int((~truth).sum())
    return float((rankdata(scores)[truth].sum() - right * (right + 1) / 2) / (right * wrong))


def _scaled(scores: np.ndarray) -> np.ndarray:
    low, high = scores.min(), scores.max()
    if not np.isfinite([low, high]).all():
        return np.full_like(scores, np.nan)
    return (scores - low) / (high - low) if high > low else np.full_like(scores, 0.5)
