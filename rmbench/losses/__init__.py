"""The loss library: pairwise(margin) x weight(embeddings) + regularizer(rewards), in parts that can be exchanged."""

from rmbench.losses.batch import GlobalBatch, LossTerms, PairBatch, Statistics, rating_margins
from rmbench.losses.description import Description, readers
from rmbench.losses.loss import PairLoss
from rmbench.losses.pairwise import PAIRWISE, Pairwise
from rmbench.losses.regularizers import MODEL_TERM, REGULARIZER, ModelTerm, Regularizer
from rmbench.losses.weights import WEIGHTS, Weight

__all__ = [
    "MODEL_TERM",
    "PAIRWISE",
    "REGULARIZER",
    "WEIGHTS",
    "Description",
    "GlobalBatch",
    "LossTerms",
    "ModelTerm",
    "PairBatch",
    "PairLoss",
    "Pairwise",
    "Regularizer",
    "Statistics",
    "Weight",
    "rating_margins",
    "readers",
]
