"""Terms that pull on the rewards themselves, each with its derivatives, and terms of what else the model says.

Of the first, every one is a pair of functions `(r_w, r_l, mean) -> (pairs,)`. Two of them are functions of a mean over
the global batch, M; of such a term f(M) each pair carries f(M) + f'(M) (its own part - M) with M held fixed, so that
the mean over the pairs is f(M), and the gradient too, however the batch is split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmbench.modeling.output import PairOutput

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional
else:
    from rmbench.foreign.lazily import functional, torch

# -log(1 - (r / 5)^2) goes on linearly beyond |r| = 4.9
BARRIER_BOUND, BARRIER_LINEAR = 5.0, 4.9


@dataclass(frozen=True)
class Regularizer:
    """A loss of both rewards: `value`, and `slopes` = its derivatives by r_w and by r_l, all `(pairs,)`.

    `part` names what a pair contributes to the mean over the global batch that both are given; None: they need none.
    """

    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    formula: str
    source: str
    part: Callable[[Tensor, Tensor], Tensor] | None = None


def centring_value(chosen: Tensor, rejected: Tensor, mean: Tensor) -> Tensor:
    """(r_w + r_l)^2: keeps rewards around zero, which BT leaves free."""
    return (chosen + rejected) ** 2


def centring_slopes(chosen: Tensor, rejected: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """2 (r_w + r_l) by either reward."""
    slope = 2 * (chosen + rejected)
    return slope, slope


def mean_reward(chosen: Tensor, rejected: Tensor) -> Tensor:
    """What a pair contributes to the mean of all rewards."""
    return (chosen + rejected) / 2


def bsr_value(chosen: Tensor, rejected: Tensor, mean: Tensor) -> Tensor:
    """M^2 + 2 M ((r_w + r_l) / 2 - M)."""
    return mean * (chosen + rejected - mean)


def bsr_slopes(chosen: Tensor, rejected: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """M by either reward."""
    slope = mean.expand_as(chosen)
    return slope, slope


def l2_value(chosen: Tensor, rejected: Tensor, mean: Tensor) -> Tensor:
    """r_w^2 + r_l^2."""
    return chosen**2 + rejected**2


def l2_slopes(chosen: Tensor, rejected: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """2 r_w, 2 r_l."""
    return 2 * chosen, 2 * rejected


def barrier_value(chosen: Tensor, rejected: Tensor, mean: Tensor) -> Tensor:
    """-log(1 - (r / 5)^2) of either reward; beyond |r| = 4.9 the tangent at that point."""
    return _barrier(chosen) + _barrier(rejected)


def barrier_slopes(chosen: Tensor, rejected: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """2 r / (25 - r^2), at most its value at |r| = 4.9: 9.9."""
    return _barrier_slope(chosen), _barrier_slope(rejected)


def _barrier(reward: Tensor) -> Tensor:
    # clamped before the logarithm, which is NaN beyond the bound; the tangent goes on from there
    near = reward.clamp(-BARRIER_LINEAR, BARRIER_LINEAR)
    return -torch.log1p(-((near / BARRIER_BOUND) ** 2)) + (reward - near) * _barrier_slope(near).detach()


def _barrier_slope(reward: Tensor) -> Tensor:
    near = reward.clamp(-BARRIER_LINEAR, BARRIER_LINEAR)
    return 2 * near / (BARRIER_BOUND**2 - near**2)


def chosen_reward(chosen: Tensor, rejected: Tensor) -> Tensor:
    """What a pair contributes to the mean of the chosen rewards."""
    return chosen


def pos_reg_value(chosen: Tensor, rejected: Tensor, mean: Tensor) -> Tensor:
    """-log sigma(M) - sigma(-M) (r_w - M)."""
    return -functional.logsigmoid(mean) - torch.sigmoid(-mean) * (chosen - mean)


def pos_reg_slopes(chosen: Tensor, rejected: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """-sigma(-M) by r_w, 0 by r_l."""
    return -torch.sigmoid(-mean).expand_as(chosen), torch.zeros_like(rejected)


def absolute_value(chosen: Tensor, rejected: Tensor, mean: Tensor) -> Tensor:
    """-log sigma(r_w) - log sigma(-r_l): chosen above zero, rejected below."""
    return -functional.logsigmoid(chosen) - functional.logsigmoid(-rejected)


def absolute_slopes(chosen: Tensor, rejected: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """-sigma(-r_w), sigma(r_l)."""
    return -torch.sigmoid(-chosen), torch.sigmoid(rejected)


@dataclass(frozen=True)
class ModelTerm:
    """A loss `(pairs,)` of what the model says of a pair beside the rewards, and of `loss.text_beta`.

    `reads` names what it needs of PairOutput, `needs` says what gives that.
    """

    value: Callable[[PairOutput, float], Tensor]
    reads: str
    needs: str
    formula: str
    source: str
    knobs: tuple[str, ...] = ()


def kl_value(output: PairOutput, beta: float) -> Tensor:
    """The model gives the term itself."""
    assert output.kl is not None
    return output.kl


def sft_value(output: PairOutput, beta: float) -> Tensor:
    """-log sigma(beta log pi(y_w | x)): its derivative by log pi(y_w | x) is -beta sigma(-beta log pi(y_w | x))."""
    assert output.log_prob_chosen is not None
    return -functional.logsigmoid(beta * output.log_prob_chosen)


def dpo_value(output: PairOutput, beta: float) -> Tensor:
    """-log sigma(beta (log pi(y_w | x) - log pi(y_l | x))): DPO without its reference model."""
    assert output.log_prob_chosen is not None
    assert output.log_prob_rejected is not None
    return -functional.logsigmoid(beta * (output.log_prob_chosen - output.log_prob_rejected))


LANGUAGE_MODEL = "a model with a language head, for PairOutput.log_prob_chosen"
GRM = "GRM, arXiv 2406.10216"

MODEL_TERM: dict[str, ModelTerm] = {
    "kl": ModelTerm(
        kl_value,
        "kl",
        "backbone.head=bottleneck, for PairOutput.kl",
        "KL(q_w ‖ N(0, I)) + KL(q_l ‖ N(0, I))",
        "InfoRM, arXiv 2402.09345",
    ),
    "sft": ModelTerm(sft_value, "log_prob_chosen", LANGUAGE_MODEL, "-log σ(β log π(y_w))", GRM, ("text_beta",)),
    "dpo": ModelTerm(
        dpo_value,
        "log_prob_chosen",
        LANGUAGE_MODEL,
        "-log σ(β log π(y_w) - β log π(y_l))",
        f"{GRM} (DPO without a reference)",
        ("text_beta",),
    ),
}

REGULARIZER: dict[str, Regularizer] = {
    "centring": Regularizer(centring_value, centring_slopes, "(r_w + r_l)²", "arXiv 2312.09244, eq. 2; TRL"),
    "bsr": Regularizer(bsr_value, bsr_slopes, "(mean reward)²", "BSR, arXiv 2505.07271", mean_reward),
    "l2": Regularizer(l2_value, l2_slopes, "r_w² + r_l²", "XTuner"),
    "barrier": Regularizer(
        barrier_value,
        barrier_slopes,
        f"-log(1 - (r_w/5)²) - log(1 - (r_l/5)²), their tangents beyond r = ±{BARRIER_LINEAR}",
        "XTuner (InternLM2, arXiv 2403.17297)",
    ),
    "pos_reg": Regularizer(pos_reg_value, pos_reg_slopes, "-log σ(mean r_w)", "GRM's code", chosen_reward),
    "absolute": Regularizer(
        absolute_value, absolute_slopes, "-log σ(r_w) - log σ(-r_l)", "Eurus, arXiv 2404.02078; RM-Robustness"
    ),
}
