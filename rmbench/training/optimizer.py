"""AdamW, the schedule of its learning rate, and the clipping of its gradient."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from rmbench.config import Scheduler, TrainingConfig

CLIP_MARGIN = 1e-6  # that torch adds to the norm before it divides


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
    """The learning rate of each step; `warmup` is a share of all steps if below 1.

    It is that of `transformers.get_scheduler`, which brings in peft: a second of every start.
    """
    warmup_steps = math.ceil(config.warmup * total_steps) if config.warmup < 1 else int(config.warmup)
    factor = partial(_factor, kind=config.scheduler, warmup_steps=warmup_steps, total_steps=total_steps)
    return LambdaLR(optimizer, factor)


def _factor(step: int, kind: Scheduler, warmup_steps: int, total_steps: int) -> float:
    """Factor of the learning rate at a step.

    Args:
        step: finished steps.
        kind: its shape after the warm-up.
        warmup_steps: in which it rises from 0.
        total_steps: at whose end it is 0, unless it is constant.
    """
    if step < warmup_steps:
        return step / warmup_steps
    falling_steps = max(1, total_steps - warmup_steps)
    if kind is Scheduler.linear:
        return max(0.0, (total_steps - step) / falling_steps)
    if kind is Scheduler.cosine:
        return max(0.0, 0.5 * (1 + math.cos(math.pi * ((step - warmup_steps) / falling_steps))))
    return 1.0


def clip_gradient(accelerator: Accelerator, model: torch.nn.Module, limit: float) -> float:
    """The norm of the whole gradient before it was clipped to `limit`; 0 is no limit.

    A gradient within the limit is read once and not written: times one, it would be the same.
    """
    if accelerator.distributed_type is DistributedType.DEEPSPEED:  # clips by itself
        return float(accelerator.clip_grad_norm_(model.parameters(), limit or math.inf))
    trained = [p for p in model.parameters() if p.grad is not None]
    total = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    norm = float(total.full_tensor() if isinstance(total, DTensor) else total)  # of sharded gradients it is sharded too
    if limit and norm + CLIP_MARGIN > limit:
        torch.nn.utils.clip_grads_with_norm_(trained, limit, total)
    return norm
