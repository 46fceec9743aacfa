"""AdamW, the schedule of its learning rate, and the clipping of its gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from transformers import get_scheduler

from rmbench.config import TrainingConfig


def new_optimizer(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices alone, as is usual."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    fused = {p.device.type for p in trained} <= {"cpu", "cuda"}  # one kernel instead of one per operation
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=fused)


def new_schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, total_steps: int) -> Any:
    """The learning rate of each step; `warmup` is a share of all steps if below 1."""
    warmup_steps = math.ceil(config.warmup * total_steps) if config.warmup < 1 else int(config.warmup)
    return get_scheduler(config.scheduler.name, optimizer, warmup_steps, total_steps)


def clip_gradient(accelerator: Accelerator, model: torch.nn.Module, limit: float) -> float:
    """The norm of the whole gradient before it was clipped to `limit`; 0 is no limit."""
    norm: Any = accelerator.clip_grad_norm_(model.parameters(), limit or math.inf)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)  # of sharded gradients it is sharded too
