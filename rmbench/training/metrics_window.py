"""State of a run between steps: its position, and the sums for the next line of history.jsonl."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rmbench.files import Json
from rmbench.losses import LossTerms
from rmbench.modeling.layout import BatchInputs
from rmbench.modeling.throughput import FORWARD_AND_BACKWARD, ModelCost

# Sums over the pairs of a step, reduced over all ranks in one message; `ending`: ranks that a signal asked to end.
PAIR_MEANS = ("loss", "accuracy", "margin", "weight", "distance")
SUMS = (*PAIR_MEANS, "denominator", "degenerate", "pairs", "tokens", "attended", "ending")
FORMER_NAMES = {"size": "denominator", "close": "degenerate"}  # in checkpoints of before


@dataclass
class TrainState:
    """What a checkpoint holds beside the tensors; JSON."""

    step: int = 0
    window: dict[str, float] = field(default_factory=dict)  # sums since the last logged step
    best_accuracy: float | None = None
    best_step: int = 0
    stopped_early: bool = False
    skipped_steps: int = 0  # for a loss or gradient that was not finite
    budget_tokens: int = 1  # of a forward pass, as found
    scheduler: Json = field(default_factory=dict)

    @classmethod
    def restored(cls, state: Json) -> TrainState:
        """The state that a checkpoint holds, sums under former names included."""
        window = {FORMER_NAMES.get(name, name): value for name, value in state["window"].items()}
        return cls(**state | {"window": window})

    def count(self, **sums: float) -> None:
        """Add to the sums since the last logged step."""
        for name, value in sums.items():
            self.window[name] = self.window.get(name, 0.0) + value

    def so_far(self) -> Json:
        """Means of the window that is still open; empty after its start."""
        pairs = self.window.get("pairs")
        if not pairs:
            return {}
        means = {f"train/{name}": self.window[name] / pairs for name in ("loss", "accuracy")}
        return means | {"throughput/pairs_per_second": pairs / self.window["seconds"]}

    def close_window(self, cost: ModelCost, matrix_rate: float) -> dict[str, float]:
        """Means since the last logged step: per pair for the sums, per step for the gradient norm."""
        window, self.window = self.window, {}
        skipped = {name: window[name] for name in ("skipped_steps",) if name in window}
        if "pairs" not in window:
            return skipped
        means = {name: window[name] / window["pairs"] for name in PAIR_MEANS}
        return means | {
            "grad_norm": window["grad_norm"] / window["steps"],
            "clip_fraction": window["clipped"] / window["steps"],
            "degenerate_pairs": window["degenerate"],
            **skipped,
            **_throughput(window, cost, matrix_rate),
        }


def step_sums(terms: LossTerms, inputs: BatchInputs, dtype: torch.dtype) -> Tensor:
    """The SUMS of one micro-batch."""
    margin = terms.margin
    one = torch.ones_like(margin)
    right = (margin > 0).to(margin.dtype)
    columns = (
        terms.loss.detach(),
        right,
        margin,
        terms.weight,
        terms.distance,
        terms.denominator,
        terms.degenerate,
        one,
    )
    counts = torch.tensor([inputs.tokens, inputs.attended, 0], dtype=dtype, device=margin.device)
    return torch.cat([torch.stack([column.sum().to(dtype) for column in columns]), counts])


def _throughput(window: dict[str, float], cost: ModelCost, matrix_rate: float) -> dict[str, float]:
    """Pairs, distinct tokens and floating-point operations per second, evaluations and files apart."""
    flops = cost.flops(window["tokens"], window["attended"], FORWARD_AND_BACKWARD) / window["seconds"]
    return {
        "throughput/pairs_per_second": window["pairs"] / window["seconds"],
        "throughput/tokens_per_second": window["tokens"] / window["seconds"],
        "throughput/tflops": flops / 1e12,
        "throughput/share_of_matrix_rate": flops / matrix_rate,
    }
