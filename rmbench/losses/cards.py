"""What a loss is, on a card: formula, source, defaults, and the weight that it gives to a pair.

All of it is read from the losses themselves, so that it cannot say anything else than they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from rmbench.config import LossConfig
from rmbench.losses.batch import PairBatch
from rmbench.losses.description import Description, documentation
from rmbench.losses.loss import PairLoss
from rmbench.losses.weights import L2
from rmbench.modeling.output import PairOutput

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from rmbench.foreign.lazily import torch

SYMBOLS = (
    "d = r_w - r_l is the margin, σ the logistic function, h_w and h_l the two embeddings, m the rating margin, μ the"
    " running mean of the weight's denominator"
)


@dataclass(frozen=True)
class Card:
    """A named loss: an option of the group `loss`, or a custom one."""

    name: str
    about: str
    config: LossConfig

    @property
    def loss(self) -> PairLoss:
        """The loss itself, fresh."""
        return PairLoss(self.config)

    @cached_property
    def description(self) -> Description:
        """The loss's description of itself."""
        return self.loss.describe()

    @property
    def defaults(self) -> dict[str, tuple[object, str]]:
        """Key -> its value here and its documentation, for every key that this loss reads."""
        return {key: (value, documentation(key)) for key, value in self.description.knobs.items()}

    @property
    def mean_reward(self) -> float:
        """(r_w + r_l) / 2 at which its curve is plotted."""
        return self.loss.pairwise.mean_reward


def curves(card: Card, margins: Sequence[float]) -> tuple[str, dict[float, tuple[Tensor, Tensor]]]:
    """What varies beside the margin, and for each of its values the losses and the pair weights `(margins,)`.

    The pair weight is -d loss / d margin at fixed r_w + r_l, which is 0 but for losses that do not move there
    (`Pairwise.mean_reward`). Denominators are in units of mu, and each pair is a batch of its own.
    """
    distance = replace(card.config.distance, ema=True, normalize=False)
    loss, chosen = PairLoss(replace(card.config, distance=distance)), card.loss.weight
    loss.model_terms = {}  # constants of the margin
    what, values = "", [1.0]
    if chosen is not None:
        loss.weight = L2(loss.config)  # whatever the denominator is, it is plotted at these values
        what, values = f"{chosen.quantity} / μ", [0.25, 0.5, 1.0, 2.0, 4.0]
    elif loss.needs_rating:
        what, values = "rating margin m", [0.0, 0.5, 1.0, 2.0, 3.0]
    loss.update(1.0)
    found = {}
    for value in values:
        rating = value if loss.needs_rating and not loss.weighs else 1.0
        terms = [loss(_pair(margin, card.mean_reward, value, rating)) for margin in margins]
        weights = torch.cat([(t.slope_rejected - t.slope_chosen) / 2 for t in terms])
        found[value] = (torch.cat([t.loss for t in terms]), weights + 0.0)  # no minus zero
    return what, found


def _pair(margin: float, mean: float, distance: float, rating: float) -> PairBatch:
    """A batch of one pair, in float64.

    Args:
        margin: r_w - r_l.
        mean: (r_w + r_l) / 2.
        distance: between the embeddings.
        rating: the rating margin.
    """
    rewards = torch.tensor([mean + margin / 2, mean - margin / 2], dtype=torch.float64)
    embeddings = torch.tensor([[distance], [0.0]], dtype=torch.float64)
    output = PairOutput(rewards[:1], rewards[1:], embeddings[:1], embeddings[1:])
    return PairBatch(output, torch.tensor([rating], dtype=torch.float64))


def markdown(cards: Sequence[Card]) -> str:
    """The table of the README."""
    lines = ["| `loss=` | loss of a pair | w | source |", "|---|---|---|---|"]
    for card in cards:
        described = card.description
        weight = f"`{described.weight}`" if described.weight else ""
        cells = [f"`{card.name}`", f"`{described.formula}`", weight, "; ".join(dict.fromkeys(described.sources))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
