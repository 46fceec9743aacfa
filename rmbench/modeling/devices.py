"""The device and precision of a run, as an Accelerator."""

from __future__ import annotations

import logging

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from rmbench.config import Device, GpuConfig, Precision
from rmbench.errors import UserError

logger = logging.getLogger(__name__)


def make_accelerator(config: GpuConfig) -> Accelerator:
    """An Accelerator on the configured device; under torchrun it joins the group.

    Raises:
        UserError: the configured device is not there.
    """
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    torch.set_float32_matmul_precision("high" if precision is Precision.tf32 else "highest")
    # A sweep runs several jobs in one process; each has its own precision.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if precision is Precision.bf16 else "no",
        step_scheduler_with_optimizer=False,
    )


def precision_name(accelerator: Accelerator) -> str:
    """fp32, tf32 or bf16; Accelerate calls the first two "no"."""
    if accelerator.mixed_precision == "no":
        return "tf32" if torch.get_float32_matmul_precision() == "high" else "fp32"
    return str(accelerator.mixed_precision)


def pick_device(device: Device) -> str:
    """The device's name: the configured one, or the first there is of CUDA, MPS and the CPU.

    Raises:
        UserError: the configured device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device is Device.auto:
        return next(name for name, available in there.items() if available)
    if not there[device.name]:
        have = ", ".join(name for name, available in there.items() if available)
        raise UserError(f"gpu.device={device.name}: this machine has none; it has {have}. gpu=auto takes the best.")
    return device.name


def pick_precision(precision: Precision, device: str) -> Precision:
    """`auto` is bf16 on CUDA devices of compute capability 8.0 and later, fp32 elsewhere.

    Raises:
        UserError: the device does not have this precision.
    """
    if precision is Precision.tf32 and device != "cuda":
        raise UserError(f"gpu.precision=tf32 needs CUDA, this is {device}; gpu.precision=auto takes what there is.")
    if precision is not Precision.auto:
        return precision
    ampere = device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    return Precision.bf16 if ampere else Precision.fp32
