"""Which pairs made a step's loss or gradient infinite or not a number: each is tried alone."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.utils import gather_object

from rmbench.files import Json, read_jsonl, write_text
from rmbench.losses import PairBatch, PairLoss, rating_margins
from rmbench.modeling.layout import Layout, run_inputs
from rmbench.modeling.model import RewardModel
from rmbench.training.feed import MicroBatch

logger = logging.getLogger(__name__)

REPORT = "nonfinite.jsonl"


def not_finite(
    model: RewardModel, loss: PairLoss, parts: Sequence[MicroBatch], layout: Layout, device: torch.device
) -> list[Json]:
    """The pairs of all ranks' `parts` whose rewards, loss or gradient are not finite, and what these are.

    Args:
        model: unwrapped.
        loss: is not updated.
        parts: this rank's forward passes of the step.
        layout: how a pair becomes an input.
        device: where the model is.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found: list[Json] = []
    for pair in [pair for part in parts for pair in part.pairs]:
        output = run_inputs(model, layout.inputs([pair]).to(device))
        # a norm of 1: weights that divide by it are finite, so what is not comes from the pair
        batch = PairBatch(output, rating_margins([pair]), torch.ones_like(output.margin))
        # its own statistics, reduced over nobody: other ranks try other numbers of pairs
        value = loss(batch, loss.statistics(batch, lambda tensor: tensor)).loss.sum()
        gradients = torch.autograd.grad(value, trained, allow_unused=True)  # leaves p.grad as it is
        norms = [float(gradient.norm()) for gradient in gradients if gradient is not None]
        seen = {
            "reward_chosen": output.rewards_chosen.item(),
            "reward_rejected": output.rewards_rejected.item(),
            "loss": value.item(),
            "gradient_norm": math.hypot(*norms),
        }
        if not all(map(math.isfinite, seen.values())):
            about = {"pair_id": pair.pair.id, "source": pair.pair.source, "section": pair.pair.section}
            found.append(about | {name: v if math.isfinite(v) else str(v) for name, v in seen.items()})
    gathered: list[Json] = gather_object(found)
    return gathered


def stop_after(limit: int, skipped: int, folder: Path) -> None:
    """Nothing, up to `limit` skipped steps.

    Raises:
        FloatingPointError: there are more; with the file that names the pairs.
    """
    if skipped > limit:
        raise FloatingPointError(
            f"{skipped} steps had a loss or gradient that is not finite,"
            f" training.max_skipped_steps={limit}. The pairs: {folder / REPORT}"
        )


def report(folder: Path, rows: list[Json], step: int) -> None:
    """Add the rows of `step`, which was skipped, to nonfinite.jsonl, and log it."""
    file = folder / REPORT
    before = read_jsonl(file) if file.is_file() else []
    kept = [row for row in before if row["step"] < step]  # a resumed run comes here a second time
    lines = [json.dumps(row) + "\n" for row in kept + [{"step": step, **row} for row in rows]]
    write_text(file, "".join(lines))
    names = ", ".join(str(row["pair_id"]) for row in rows[:5]) or "none of its pairs alone"
    logger.warning("step %d skipped: loss or gradient not finite (%s)", step, names)
