"""Messages of a run during training: numbers beside the bar, and lines in the output and in train.log."""

from __future__ import annotations

import logging
import math
import threading
import time
from datetime import timedelta

from rmbench.config import TrainingConfig
from rmbench.console import ON_BAR
from rmbench.files import Json
from rmbench.modeling.throughput import FORWARD_AND_BACKWARD

logger = logging.getLogger(__name__)

MOST_EVALUATIONS = 10
COST_SHARE = 0.05  # of a run, for evaluations that nobody asked for
EVALUATIONS = {  # what their lines show of a row
    "held-out pairs": {"eval/accuracy": "accuracy {:.3f}", "eval/loss": "loss {:.4f}"},
    "benchmark": {"benchmark/score": "score {:.3f}"},
}
SECONDS_APART = 9.5  # of lines about training, so that a late one comes within 10


def evaluation_steps(config: TrainingConfig, steps: int, held_out: int) -> int:
    """How many steps lie between two evaluations of a run of `steps` steps; 0 is none before the end.

    Unless `training.eval_steps` says it: at most MOST_EVALUATIONS, evenly spread, that cost less than COST_SHARE of the
    run. A held-out pair takes a forward pass, a training pair a backward pass too, which costs twice as much.

    >>> evaluation_steps(TrainingConfig(batch_size=32), steps=900, held_out=1200)  # 3.6 would take 5 %
    225
    """
    if config.eval_steps is not None:
        return config.eval_steps
    fit = COST_SHARE * FORWARD_AND_BACKWARD * steps * config.batch_size / max(held_out, 1)
    evaluations = min(MOST_EVALUATIONS, math.ceil(round(fit, 9)) - 1, steps - 1)
    return math.ceil(steps / (evaluations + 1)) if evaluations > 0 else 0


class Watch:
    """Turns what is known of the training into lines: none sooner than SECONDS_APART after another, and, within its
    context, none later, however slow a step is.

    Args:
        done: the step at which this process began.
        total: the run's last step.
        shown: whether this process speaks for the run.
    """

    def __init__(self, done: int, total: int, shown: bool = True) -> None:
        self.first, self.total, self.shown = done, total, shown
        self._began, self._line_at = time.monotonic(), float("-inf")
        self._step, self._numbers = done, ""
        self._lock, self._over = threading.Lock(), threading.Event()

    def __enter__(self) -> Watch:
        if self.shown:
            threading.Thread(target=self._follow, daemon=True, name="watch").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _follow(self) -> None:
        wait = SECONDS_APART
        while not self._over.wait(wait):
            wait = self.beat()

    def beat(self) -> float:
        """Log where the training is, if nothing was for SECONDS_APART; how long until that may be so again."""
        with self._lock:
            left = SECONDS_APART - (time.monotonic() - max(self._line_at, self._began))
            if left > 0:
                return left
            if self._step < self.total:
                self._line(self._numbers or "in the first step")
            return SECONDS_APART

    def passed(self, step: int, so_far: Json) -> str:
        """Take note of a step and of the window that is open; what to show beside the bar."""
        with self._lock:
            self._step, self._numbers = step, training_numbers(so_far) or self._numbers
        return self._numbers

    def report(self, step: int, row: Json) -> str:
        """Log what the row of a step says; what to show beside the bar, empty where the row has no training window."""
        numbers = training_numbers(row)
        if numbers:
            with self._lock:
                self._step, self._numbers = step, numbers
                if step == self.total or time.monotonic() - self._line_at >= SECONDS_APART:
                    self._line(numbers)
        for name, shown in EVALUATIONS.items():
            known = [form.format(row[key]) for key, form in shown.items() if key in row]
            if known:
                logger.info("step %d/%d: %s: %s", step, self.total, name, ", ".join(known))
        return numbers

    def _line(self, numbers: str) -> None:
        self._line_at = time.monotonic()
        left = f", ETA {self._left(self._step)}" if self.first < self._step < self.total else ""
        logger.info("step %d/%d: %s%s", self._step, self.total, numbers, left, extra=ON_BAR)

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
