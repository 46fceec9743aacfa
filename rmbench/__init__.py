"""rmbench: an experiment runner for reward models.

The losses, the layout and the gradient norms work inside other trainers too; `scripts/trl_reward.py` shows how:

    from rmbench import DistanceConfig, LossConfig, PairLoss, PairOutput

    loss = PairLoss(LossConfig(weighting="distance"))
    terms = loss(PairOutput(rewards_chosen, rewards_rejected, embeddings_chosen, embeddings_rejected))
    terms.loss.mean().backward()
    loss.update(terms.denominator.mean().item())  # once per optimiser step
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rmbench.config import DistanceConfig, LossConfig, Measure, RatingScale, RegularizerConfig
    from rmbench.diagnostics.gradients import PairGradients
    from rmbench.diagnostics.rules import Rule, register_rule
    from rmbench.diagnostics.sketches import Result
    from rmbench.losses import LossTerms, PairBatch, PairLoss, Pairwise, Regularizer, Weight
    from rmbench.modeling.layout import Padded, Shared, run_inputs
    from rmbench.modeling.loading import load_reward_model
    from rmbench.modeling.model import RewardModel
    from rmbench.modeling.output import PairOutput

# Where each name comes from; it is imported when it is first asked for, so that `import rmbench` costs nothing.
_HOMES = {
    "rmbench.config": ("DistanceConfig", "LossConfig", "Measure", "RatingScale", "RegularizerConfig"),
    "rmbench.diagnostics.gradients": ("PairGradients",),
    "rmbench.losses": ("LossTerms", "PairBatch", "PairLoss", "Pairwise", "Regularizer", "Weight"),
    "rmbench.diagnostics.rules": ("Rule", "register_rule"),
    "rmbench.diagnostics.sketches": ("Result",),
    "rmbench.modeling.layout": ("Padded", "Shared", "run_inputs"),
    "rmbench.modeling.loading": ("load_reward_model",),
    "rmbench.modeling.model": ("RewardModel",),
    "rmbench.modeling.output": ("PairOutput",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DistanceConfig",
    "LossConfig",
    "LossTerms",
    "Measure",
    "Padded",
    "PairBatch",
    "PairGradients",
    "PairLoss",
    "PairOutput",
    "Pairwise",
    "RatingScale",
    "Regularizer",
    "RegularizerConfig",
    "Result",
    "RewardModel",
    "Rule",
    "Shared",
    "Weight",
    "load_reward_model",
    "register_rule",
    "run_inputs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'rmbench' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
