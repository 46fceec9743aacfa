"""How the gradient norm grows with the distance during a run, for the weights that depend on it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from rmbench.config import LossConfig
from rmbench.data.text import TokenPair
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.measure import MeasuringPass, Rows
from rmbench.losses import PairLoss
from rmbench.modeling.layout import Layout
from rmbench.modeling.model import RewardModel

logger = logging.getLogger(__name__)

PAIRS = 64  # measured each time
SHARE = 0.02  # of a run's work, at most, after the first measurement
COST = 2.0  # of a measured pair, in pairs trained


class SlopeProbe:
    """Measures the slope of log gradient norm on log distance at equal prediction error, under BT, on the same pairs.

    Norms are exact, over all trained parameters. Which steps it measures follows from their number, not from a clock,
    so that a resumed run measures at the same ones.

    Args:
        pairs: what `choose_probe` gave.
        layout: how they become inputs.
        model: the model that is trained, without Accelerate's wrapper.
        batch_size: pairs of an optimiser step.
    """

    def __init__(self, pairs: Sequence[TokenPair], layout: Layout, model: RewardModel, batch_size: int) -> None:
        self.pairs, self.loss = pairs, PairLoss(LossConfig())
        self.measuring = MeasuringPass(model, layout, model.head.weight.device, PairGradients(model))
        self.every = max(1, math.ceil(COST * len(pairs) / (SHARE * batch_size)))

    def before(self, step: int, loss: PairLoss, budget_tokens: int) -> dict[str, float]:
        """Measure, if `step` is the first or one of every so many, and hand the slope to `loss`; numbers for the log.

        Raises:
            UserError: a single pair does not fit into memory.
        """
        if step != 1 and step % self.every:
            return {}
        slope = slope_of(self.measuring(self.pairs, self.loss, budget_tokens))
        if math.isfinite(slope):
            return loss.observe_slope(slope)
        logger.warning("step %d: the probe's pairs show no slope; the exponent is unchanged", step)
        return {}


def slope_of(rows: Rows) -> float:
    """The slope of the measured pairs; NaN if fewer than three have a distance and a gradient."""
    names = ("distance", "prediction_error", "gradient_norm")
    columns = {name: np.array(rows.columns[name]) for name in names}
    usable = (columns["distance"] > 0) & (columns["gradient_norm"] > 0)
    kept = {name: values[usable] for name, values in columns.items()}
    if len(np.unique(kept["distance"])) < 3:
        return math.nan
    from rmbench.diagnostics.study import elasticities_at_fixed_error

    return elasticities_at_fixed_error(kept, ["gradient_norm"])["gradient_norm"]
