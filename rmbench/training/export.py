"""The trained model as a plain transformers folder."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from torch import nn

from rmbench.data.protocols import Tokenizer
from rmbench.modeling.devices import sharded, whole_state
from rmbench.modeling.loading import save_reward_model
from rmbench.training.checkpoints import replace_folder


def export(accelerator: Accelerator, model: nn.Module, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model to `folder`, atomically and by rank 0; every rank calls it.

    Args:
        accelerator: gathers sharded weights.
        model: as Accelerate has wrapped it.
        tokenizer: saved beside it.
        folder: appears when all of it is written.
    """
    # On every rank, before the branch: gathering sharded weights is a collective call.
    state = whole_state(accelerator, model) if sharded(accelerator, model) else None
    if accelerator.is_main_process:
        staging = folder.with_name(f".{folder.name}.partial")
        save_reward_model(accelerator.unwrap_model(model), tokenizer, staging, state)
        replace_folder(staging, folder)
