"""What a run says of itself while it trains: numbers beside the bar, and lines in the output and in train.log."""

from __future__ import annotations

import logging
import math
import time
from datetime import timedelta

from rmbench.config import TrainingConfig
from rmbench.console import ON_BAR
from rmbench.files import Json
from rmbench.modeling.throughput import FORWARD_AND_BACKWARD

logger = logging.getLogger(__name__)

MOST_EVALUATIONS = 10
COST_SHARE = 0.05  # of a run, for evaluations that nobody asked for
SECONDS_APART = 10.0  # of lines about training; evaluations and checkpoints have one each


def evaluation_steps(config: TrainingConfig, steps: int, held_out: int) -> int:
    """How many steps lie between two evaluations of a run of `steps` steps; 0 is none before the end.

    Unless `training.eval_steps` says it: at most MOST_EVALUATIONS, evenly spread, that cost less than COST_SHARE of the
    run. A held-out pair takes a forward pass, a training pair a backward pass too, which costs twice as much.

    >>> evaluation_steps(TrainingConfig(batch_size=32), steps=1000, held_out=1200)  # 3.9 that fit into 5 %: 3
    250
    """
    if config.eval_steps is not None:
        return config.eval_steps
    fit = COST_SHARE * FORWARD_AND_BACKWARD * steps * config.batch_size / max(held_out, 1)
    evaluations = min(MOST_EVALUATIONS, math.ceil(fit) - 1, steps - 1)
    return math.ceil(steps / (evaluations + 1)) if evaluations > 0 else 0


class Watch:
    """Turns the rows of history.jsonl into lines.

    Args:
        done: the step at which this process began.
        total: the run's last step.
    """

    def __init__(self, done: int, total: int) -> None:
        self.first, self.total = done, total
        self._began, self._line_at = time.monotonic(), float("-inf")

    def report(self, step: int, row: Json) -> str:
        """Log what the row of a step says; what to show beside the bar, empty where the row has no training window."""
        numbers = training_numbers(row)
        if numbers:
            now = time.monotonic()
            if step == self.total or now - self._line_at >= SECONDS_APART:
                self._line_at = now
                left = "" if step == self.total else f", ETA {self._left(step)}"
                logger.info("step %d/%d: %s%s", step, self.total, numbers, left, extra=ON_BAR)
        for what, keys in (("eval", ("accuracy", "loss")), ("benchmark", ("score",))):
            known = [f"{key} {row[f'{what}/{key}']:.4g}" for key in keys if f"{what}/{key}" in row]
            if known:
                name = "held-out pairs" if what == "eval" else what
                logger.info("step %d/%d: %s: %s", step, self.total, name, ", ".join(known))
        return numbers

    def _left(self, step: int) -> timedelta:
        """Until the last step, as long a step as so far."""
        passed = time.monotonic() - self._began
        return timedelta(seconds=round(passed / max(1, step - self.first) * (self.total - step)))


def training_numbers(row: Json) -> str:
    """The means of a window as they are shown; empty for a row without one.

    >>> training_numbers({"train/loss": 0.5, "train/accuracy": 0.75, "throughput/pairs_per_second": 1234.5})
    'loss 0.5000, accuracy 0.750, 1,234 pairs/s'
    """
    numbers = []
    if "train/loss" in row:
        speed = row["throughput/pairs_per_second"]
        pairs = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
        numbers = [f"loss {row['train/loss']:.4f}", f"accuracy {row['train/accuracy']:.3f}", f"{pairs} pairs/s"]
    if "train/skipped_steps" in row:
        numbers.append(f"{row['train/skipped_steps']:.0f} steps skipped")
    return ", ".join(numbers)
