"""The loss library: pairwise(margin) x weighting(distance) + regularizer(rewards), in parts that can be exchanged."""

from rmbench.losses.loss import LossTerms, PairBatch, PairLoss, Statistics, rating_margins
from rmbench.losses.pairwise import PAIRWISE, Pairwise
from rmbench.losses.regularizers import REGULARIZER, Regularizer

__all__ = [
    "PAIRWISE",
    "REGULARIZER",
    "LossTerms",
    "PairBatch",
    "PairLoss",
    "Pairwise",
    "Regularizer",
    "Statistics",
    "rating_margins",
]
