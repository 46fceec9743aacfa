"""What a loss is, on a card: formula, source, defaults, and the weight that it gives to a pair.

All of it is read from the losses themselves, so that it cannot say anything else than they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from rmbench.config import DistanceConfig, LossConfig, Measure, RegularizerConfig
from rmbench.losses.loss import PairBatch, PairLoss
from rmbench.losses.regularizers import MODEL_TERM, ModelTerm, Regularizer
from rmbench.losses.weighting import EXACT_FORMULA, FORMULA
from rmbench.modeling.output import PairOutput

PAPER = "NormBT, arXiv 2512.06343"
SYMBOLS = (
    "d = r_w - r_l is the margin, σ the logistic function, h_w and h_l the two embeddings, m the rating margin, μ the"
    " running mean of what the weight divides by"
)


@dataclass(frozen=True)
class Card:
    """A named loss: an option of the group `loss`, or one of a user's own."""

    name: str
    about: str
    config: LossConfig

    @property
    def loss(self) -> PairLoss:
        """The loss itself, fresh."""
        return PairLoss(self.config)

    @property
    def formula(self) -> str:
        """Of one pair; `w` is the weight."""
        weight = "w · " if self.loss.weighs else ""
        terms = [f"{coefficient:g} · [{term.formula}]" for coefficient, term in self._terms]
        pairwise = self.loss.pairwise.formula
        return " + ".join([f"{weight}[{pairwise}]" if weight else pairwise, *terms])

    @property
    def weight(self) -> str | None:
        """Formula of the weight, if there is one."""
        if not self.loss.weighs:
            return None
        distance = self.config.distance
        mean = "μ" if distance.ema else "batch mean"
        size = EXACT_FORMULA if self.loss.needs_gradient_norm else FORMULA[distance.measure]
        ratio = f"{mean} / ({size} + ε)"
        weight = ratio if distance.exponent == 1 else f"({ratio})^{distance.exponent:g}"
        return f"{weight}, divided by their mean" if distance.normalize else weight

    @property
    def sources(self) -> list[str]:
        """Where its parts come from."""
        parts = [term.source for _, term in self._terms]
        return [self.loss.pairwise.source, *([PAPER] if self.loss.weighs else []), *parts]

    @property
    def _terms(self) -> list[tuple[float, Regularizer | ModelTerm]]:
        return [*self.loss.regularizers.values(), *self.loss.model_terms.values()]

    @property
    def defaults(self) -> dict[str, tuple[Any, str]]:
        """Key -> its value here and its documentation, for every key that this loss reads."""
        loss = self.loss
        found: dict[str, tuple[Any, str]] = {}
        knobs = dict.fromkeys(knob for _, term in loss.model_terms.values() for knob in term.knobs)
        parts: list[tuple[str, Any, Sequence[str]]] = [("loss.", self.config, (*loss.pairwise.knobs, *knobs))]
        if loss.weighs:
            parts.append(("loss.distance.", self.config.distance, self._distance_knobs()))
        parts.append(("loss.regularizer.", self.config.regularizer, _nonzero(self.config.regularizer)))
        for prefix, part, names in parts:
            docs = {f.name: f.metadata["doc"] for f in fields(part) if "doc" in f.metadata}
            found |= {prefix + name: (getattr(part, name), docs[name]) for name in names}
        return found

    def _distance_knobs(self) -> list[str]:
        unread = {"measure", "shrinkage"} if self.loss.needs_gradient_norm else {"shrinkage"}
        if self.config.distance.measure is Measure.whitened:
            unread -= {"shrinkage"}
        return [f.name for f in fields(DistanceConfig) if f.name not in unread]


def _nonzero(regularizer: RegularizerConfig) -> list[str]:
    return [f.name for f in fields(regularizer) if getattr(regularizer, f.name)]


def curves(card: Card, margins: Sequence[float]) -> tuple[str, dict[float, tuple[Tensor, Tensor]]]:
    """What varies beside the margin, and for each of its values the losses and the pair weights `(margins,)`.

    The pair weight is -d loss / d margin at fixed r_w + r_l = 0. Distances are in units of mu, each pair is a batch of
    its own, and whatever measures the distance is taken to say the same.
    """
    distance = replace(card.config.distance, measure=Measure.l2, ema=True, normalize=False)
    regularizer = replace(card.config.regularizer, **dict.fromkeys(MODEL_TERM, 0.0))  # constants of the margin
    weighting = "distance" if card.loss.weighs else "none"
    loss = PairLoss(replace(card.config, weighting=weighting, distance=distance, regularizer=regularizer))
    loss.update(1.0)
    what, values = "", [1.0]
    if loss.weighs:
        size = "gradient norm" if card.loss.needs_gradient_norm else "distance"
        what, values = f"{size} / μ", [0.25, 0.5, 1.0, 2.0, 4.0]
    elif loss.needs_rating:
        what, values = "rating margin m", [0.0, 0.5, 1.0, 2.0, 3.0]
    found = {}
    for value in values:
        rating = value if loss.needs_rating and not loss.weighs else 1.0
        terms = [loss(_pair(margin, value, rating)) for margin in margins]
        weights = torch.cat([(t.slope_rejected - t.slope_chosen) / 2 for t in terms])
        found[value] = (torch.cat([t.loss for t in terms]), weights + 0.0)  # no minus zero
    return what, found


def _pair(margin: float, distance: float, rating: float) -> PairBatch:
    rewards = torch.tensor([margin / 2, -margin / 2], dtype=torch.float64)
    embeddings = torch.tensor([[distance], [0.0]], dtype=torch.float64)
    output = PairOutput(rewards[:1], rewards[1:], embeddings[:1], embeddings[1:])
    return PairBatch(output, torch.tensor([rating], dtype=torch.float64))


def markdown(cards: Sequence[Card]) -> str:
    """The table of the README."""
    lines = ["| `loss=` | loss of a pair | w | source |", "|---|---|---|---|"]
    for card in cards:
        weight = f"`{card.weight}`" if card.weight else ""
        cells = [f"`{card.name}`", f"`{card.formula}`", weight, "; ".join(dict.fromkeys(card.sources))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
