"""One training run: config, folder, accelerator and tracker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator

from rmbench.config import TrainConfig
from rmbench.data.text import TokenPair
from rmbench.modeling.layout import Layout
from rmbench.modeling.scoring import PairScores, score_pairs
from rmbench.tracking import Tracker


@dataclass(frozen=True)
class Run:
    """Config, folder, the processes that share the run, and its tracker (one that does nothing unless given)."""

    config: TrainConfig
    folder: Path
    accelerator: Accelerator
    tracker: Tracker = field(default_factory=Tracker)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes the folder."""
        return bool(self.accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of matrix products."""
        return torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32

    def wait(self) -> None:
        """Returns when every process has come here."""
        self.accelerator.wait_for_everyone()

    def score(self, model: torch.nn.Module, pairs: Sequence[TokenPair], layout: Layout) -> PairScores:
        """Rewards and distances of `pairs` in the run's precision, shared among its processes."""
        with self.accelerator.autocast():
            return score_pairs(model, pairs, layout, self.device, self.config.gpu.eval_tokens)
