"""Losses of one pair's margin, each with its derivative.

Every loss is a pair of functions `(x, rating_margin, config) -> (pairs,)`: the value and its slope d value / d x, where
x is the margin r_w - r_l, or for `reward_norm` the margin over the length of (r_w, r_l). A new loss is one entry in
`PAIRWISE`, a YAML of three lines and a test with a value derived by hand. -slope is the weight that the loss gives to a
pair, and is named so in the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmbench.config import LossConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional
else:
    from rmbench.foreign.lazily import functional, torch

# exp(-margin) goes on linearly below -EXPONENTIAL_LINEAR: no pair counts more than e^3 = 20 times one of margin 0
EXPONENTIAL_LINEAR = 3.0
# added in quadrature to the length of (r_w, r_l), which may be zero
REWARD_NORM_EPS = 1e-3
RATING_KNOBS = ("rating_scale", "rating_factor")  # of every loss that reads rating margins

PerPair = Callable[["Tensor", "Tensor", LossConfig], "Tensor"]


@dataclass(frozen=True)
class Coordinate:
    """What a loss is a function of: x and its derivatives by r_w and by r_l, all `(pairs,)`."""

    x: Tensor
    by_chosen: Tensor
    by_rejected: Tensor


def margin_of(chosen: Tensor, rejected: Tensor) -> Coordinate:
    """r_w - r_l."""
    one = torch.ones_like(chosen)
    return Coordinate(chosen - rejected, one, -one)


def normed_margin_of(chosen: Tensor, rejected: Tensor) -> Coordinate:
    """(r_w - r_l) / sqrt(r_w^2 + r_l^2): no gain from larger rewards."""
    # exact derivatives of x, eps included: d x / d r_w = (1 - x r_w / length) / length
    length = (chosen**2 + rejected**2 + REWARD_NORM_EPS**2).sqrt()
    x = (chosen - rejected) / length
    return Coordinate(x, (1 - x * chosen / length) / length, (-1 - x * rejected / length) / length)


@dataclass(frozen=True)
class Pairwise:
    """A loss of a pair: `value(x)` and `slope(x)` = d value / d x, with what a reader needs to know of it."""

    value: PerPair
    slope: PerPair
    formula: str
    source: str
    knobs: tuple[str, ...] = ()  # keys below `loss.` that its functions read
    needs_rating: bool = False
    coordinate: Callable[[Tensor, Tensor], Coordinate] = margin_of
    mean_reward: float = 0.0  # (r_w + r_l) / 2 at which its curve is plotted; any other where x moves with the margin

    @property
    def keys(self) -> tuple[str, ...]:
        """`knobs`, and those of the rating margin's unit where it reads one."""
        return tuple(dict.fromkeys((*self.knobs, *(RATING_KNOBS if self.needs_rating else ()))))


def bt_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-log sigma(x)."""
    return -functional.logsigmoid(x)


def bt_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-sigma(-x): minus the prediction error."""
    return -torch.sigmoid(-x)


def temperature_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-log sigma(x / tau)."""
    return -functional.logsigmoid(x / config.temperature)


def temperature_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-sigma(-x / tau) / tau."""
    return -torch.sigmoid(-x / config.temperature) / config.temperature


def margin_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-log sigma(x - m)."""
    return -functional.logsigmoid(x - rating)


def margin_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-sigma(m - x)."""
    return -torch.sigmoid(rating - x)


def margin_out_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-m log sigma(x)."""
    return -rating * functional.logsigmoid(x)


def margin_out_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-m sigma(-x)."""
    return -rating * torch.sigmoid(-x)


def smoothing_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-(1 - alpha) log sigma(x) - alpha log sigma(-x), where log sigma(-x) = log sigma(x) - x."""
    # rearranged: the difference of two logarithms would cancel where both are large
    return -functional.logsigmoid(x) + config.smoothing * x


def smoothing_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-sigma(-x) + alpha: pushes back where sigma(-x) < alpha."""
    return -torch.sigmoid(-x) + config.smoothing


def robust_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """[-(1 - alpha) log sigma(x) + alpha log sigma(-x)] / (1 - 2 alpha)."""
    return -functional.logsigmoid(x) - config.smoothing / (1 - 2 * config.smoothing) * x


def robust_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-sigma(-x) - alpha / (1 - 2 alpha): never less than the second term."""
    return -torch.sigmoid(-x) - config.smoothing / (1 - 2 * config.smoothing)


def hinge_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """max(0, target - x)."""
    return (config.target - x).clamp(min=0)


def hinge_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-1 below the target, else 0."""
    return -(x < config.target).to(x.dtype)


def exponential_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """exp(-x); below x = -3 the tangent at that point."""
    near = x >= -EXPONENTIAL_LINEAR  # two branches: in a sum, the tangent's slope, 20, would drown that of a large x
    curve = torch.exp(-torch.where(near, x, torch.zeros_like(x)))
    return torch.where(near, curve, math.exp(EXPONENTIAL_LINEAR) * (1 - EXPONENTIAL_LINEAR - x))


def exponential_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-exp(-x), at least -e^3."""
    return -torch.exp(-x.clamp(min=-EXPONENTIAL_LINEAR))


def focal_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-(1 - sigma(x))^gamma log sigma(x)."""
    # a power by its logarithm: 1 - sigma(x) rounds to 0 in float32 from x = 17 on
    return -torch.exp(config.gamma * functional.logsigmoid(-x)) * functional.logsigmoid(x)


def focal_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-s^gamma [s - gamma sigma(x) log sigma(x)] with s = sigma(-x)."""
    factor = torch.exp(config.gamma * functional.logsigmoid(-x))
    return -factor * (torch.sigmoid(-x) - config.gamma * torch.sigmoid(x) * functional.logsigmoid(x))


def internlm2_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-(1 - 2 max(0, sigma(x) - 1/2))^gamma log sigma(x); the factor is (2 sigma(-x))^gamma above x = 0, else 1."""
    return -_internlm2_factor(x, config.gamma) * functional.logsigmoid(x)


def internlm2_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """-f [s - gamma sigma(x) log sigma(x)] above x = 0, -s elsewhere; it jumps there, as published."""
    easier = torch.where(x > 0, config.gamma * torch.sigmoid(x) * functional.logsigmoid(x), torch.zeros_like(x))
    return -_internlm2_factor(x, config.gamma) * (torch.sigmoid(-x) - easier)


def _internlm2_factor(x: Tensor, gamma: float) -> Tensor:
    logarithm = torch.where(x > 0, math.log(2) + functional.logsigmoid(-x), torch.zeros_like(x))
    return torch.exp(gamma * logarithm)


def squared_value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """(x - target)^2."""
    return (x - config.target) ** 2


def squared_slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
    """2 (x - target): pushes back above the target."""
    return 2 * (x - config.target)


PAIRWISE: dict[str, Pairwise] = {
    "bt": Pairwise(bt_value, bt_slope, "-log σ(d)", "Bradley and Terry 1952"),
    "bt_temperature": Pairwise(
        temperature_value, temperature_slope, "-log σ(d / τ)", "Skywork-Reward, arXiv 2410.18451", ("temperature",)
    ),
    "bt_margin": Pairwise(
        margin_value,
        margin_slope,
        "-log σ(d - m)",
        "Llama 2, arXiv 2307.09288; TRL",
        needs_rating=True,
    ),
    "bt_margin_out": Pairwise(
        margin_out_value,
        margin_out_slope,
        "-m log σ(d)",
        "scaled BT of HelpSteer2-Preference, arXiv 2410.01257",
        needs_rating=True,
    ),
    "bt_label_smoothing": Pairwise(
        smoothing_value,
        smoothing_slope,
        "-(1 - α) log σ(d) - α log σ(-d)",
        "GRM's code, arXiv 2406.10216",
        ("smoothing",),
    ),
    "bt_robust": Pairwise(
        robust_value,
        robust_slope,
        "[-(1 - α) log σ(d) + α log σ(-d)] / (1 - 2α)",
        "rDPO's form, arXiv 2403.00409",
        ("smoothing",),
    ),
    "hinge": Pairwise(
        hinge_value, hinge_slope, "max(0, t - d)", "SLiC-HF, arXiv 2305.10425; RM-Robustness", ("target",)
    ),
    "exponential": Pairwise(
        exponential_value, exponential_slope, "exp(-d), its tangent below d = -3", "RankBoost, Freund et al. 2003"
    ),
    "focal": Pairwise(
        focal_value, focal_slope, "-(1 - σ(d))^γ log σ(d)", "Skywork-Reward, arXiv 2410.18451", ("gamma",)
    ),
    "focal_internlm2": Pairwise(
        internlm2_value,
        internlm2_slope,
        "-(1 - 2 max(0, σ(d) - 1/2))^γ log σ(d)",
        "InternLM2, arXiv 2403.17297; XTuner",
        ("gamma",),
    ),
    "squared_margin": Pairwise(
        squared_value, squared_slope, "(d - t)²", "IPO's form, arXiv 2310.12036; Skywork-Reward", ("target",)
    ),
    "reward_norm": Pairwise(
        bt_value,
        bt_slope,
        f"-log σ(d / √(r_w² + r_l² + {REWARD_NORM_EPS:g}²))",
        "RM-Robustness, arXiv 2505.07271",
        coordinate=normed_margin_of,
        mean_reward=1.0,
    ),
}
