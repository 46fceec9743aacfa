"""loss_i = weight_i * pairwise(margin_i) + sum of coefficient * regularizer(r_w, r_l).

Every part is pure, works per pair and states its derivative; the caller reduces once. margin = r_w - r_l. A new
pairwise loss is one `Pairwise` in the dict below, a YAML of three lines and a test with a value derived by hand.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rmbench.config import DistanceConfig, LossConfig
from rmbench.errors import UserError
from rmbench.modeling.layout import PairOutput

T = TypeVar("T")


@dataclass(frozen=True)
class Pairwise:
    """A loss of the margin: `value` and its `slope` d value / d margin, both `(pairs,) -> (pairs,)`."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Regularizer:
    """A loss of both rewards: `value`, and `slopes` = its derivatives by r_w and by r_l, all `(pairs,)`."""

    value: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def bt_value(margin: Tensor) -> Tensor:
    """Bradley-Terry: -log sigma(margin)."""
    return -logsigmoid(margin)


def bt_slope(margin: Tensor) -> Tensor:
    """-sigma(-margin): minus the prediction error."""
    return -torch.sigmoid(-margin)


def centring_value(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_w + r_l)^2 (arXiv 2312.09244, eq. 2): keeps rewards around zero, which BT leaves free."""
    return (chosen + rejected) ** 2


def centring_slopes(chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """2 (r_w + r_l) by either reward."""
    slope = 2 * (chosen + rejected)
    return slope, slope


def weight_one(distance: Tensor, mu: float, config: DistanceConfig) -> Tensor:
    """Every pair counts the same."""
    return torch.ones_like(distance)


def weight_by_distance(distance: Tensor, mu: float, config: DistanceConfig) -> Tensor:
    """NormBT: mu / (distance + eps), at most `max_weight` (arXiv 2512.06343)."""
    weight = mu / (distance + config.eps)
    return weight if config.max_weight is None else weight.clamp(max=config.max_weight)


PAIRWISE: dict[str, Pairwise] = {"bt": Pairwise(bt_value, bt_slope)}
WEIGHTING: dict[str, Callable[[Tensor, float, DistanceConfig], Tensor]] = {
    "none": weight_one,
    "distance": weight_by_distance,
}
REGULARIZER: dict[str, Regularizer] = {"centring": Regularizer(centring_value, centring_slopes)}


@dataclass(frozen=True)
class LossTerms:
    """A batch of pairs under a loss; all `(pairs,)`. Only `loss` carries gradient."""

    loss: Tensor
    margin: Tensor
    distance: Tensor
    weight: Tensor
    slope_chosen: Tensor  # d loss_i / d r_w
    slope_rejected: Tensor  # d loss_i / d r_l

    @property
    def prediction_error(self) -> Tensor:
        """sigma(-margin): the probability that the model gives to the wrong order."""
        return torch.sigmoid(-self.margin)

    @property
    def loss_slope(self) -> Tensor:
        """|d loss_i / d margin| at fixed r_w + r_l, weight included."""
        return (self.slope_chosen - self.slope_rejected).abs() / 2


class PairLoss:
    """The configured loss and its one piece of state: mu, the running mean distance.

    mu starts as the first global batch's mean, the mu of before is used at step t, and `update` is called once per
    optimiser step with the global batch's mean distance; evaluation never calls it (arXiv 2512.06343; where mu starts
    and when it is updated under accumulation are choices, the paper does not say).

    Raises:
        UserError: a part has no such name; the message lists those there are.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.pairwise = _named(PAIRWISE, config.pairwise, "loss.pairwise")
        self.weighting = _named(WEIGHTING, config.weighting, "loss.weighting")
        self.regularizers = [(c, REGULARIZER[name]) for name, c in vars(config.regularizer).items() if c]
        self.mu: float | None = None

    @property
    def needs_mu(self) -> bool:
        """The first batch's mean distance has to be measured before the first step."""
        return self.config.weighting == "distance" and self.mu is None

    def __call__(self, output: PairOutput) -> LossTerms:
        """Per-pair terms. Nothing is updated."""
        assert not self.needs_mu, "call update(mean distance of the first global batch) first"
        margin, distance = output.margin, output.distance
        weight = self.weighting(distance, self.mu or 0.0, self.config.distance)
        loss = weight * self.pairwise.value(margin)
        with torch.no_grad():
            slope_chosen = weight * self.pairwise.slope(margin)
            slope_rejected = -slope_chosen
        for coefficient, regularizer in self.regularizers:
            loss = loss + coefficient * regularizer.value(output.rewards_chosen, output.rewards_rejected)
            with torch.no_grad():
                by_chosen, by_rejected = regularizer.slopes(output.rewards_chosen, output.rewards_rejected)
                slope_chosen = slope_chosen + coefficient * by_chosen
                slope_rejected = slope_rejected + coefficient * by_rejected
        return LossTerms(loss, margin.detach(), distance, weight, slope_chosen, slope_rejected)

    def update(self, mean_distance: float) -> None:
        """mu <- beta mu + (1 - beta) * mean distance; the first call sets mu."""
        beta = self.config.distance.beta
        self.mu = mean_distance if self.mu is None else beta * self.mu + (1 - beta) * mean_distance


def _named(choices: dict[str, T], name: str, key: str) -> T:
    if name in choices:
        return choices[name]
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {key}={near[0]}?" if near else ""
    raise UserError(f"{key}={name}: no such name.{hint} There are: {', '.join(choices)}.")
