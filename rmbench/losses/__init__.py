"""The loss library: pairwise(margin) x weighting(distance) + regularizer(rewards), in parts that can be exchanged."""

from rmbench.losses.loss import LossTerms, PairBatch, PairLoss, Statistics, rating_margins
from rmbench.losses.pairwise import PAIRWISE, Pairwise
from rmbench.losses.regularizers import MODEL_TERM, REGULARIZER, ModelTerm, Regularizer

__all__ = [
    "MODEL_TERM",
    "PAIRWISE",
    "REGULARIZER",
    "LossTerms",
    "ModelTerm",
    "PairBatch",
    "PairLoss",
    "Pairwise",
    "Regularizer",
    "Statistics",
    "rating_margins",
]
