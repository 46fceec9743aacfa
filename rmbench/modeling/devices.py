"""The device and precision of a run, and how several devices share it, as an Accelerator."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from rmbench.config import Device, GpuConfig, Precision, Strategy
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.foreign.accelerate import forget_accelerator
from rmbench.modeling.memory import keep_freed_memory

logger = logging.getLogger(__name__)

ZERO_STAGE = {Strategy.deepspeed_zero2: 2, Strategy.deepspeed_zero3: 3}


def make_accelerator(
    config: GpuConfig, max_grad_norm: float = 0.0, large: Callable[[], bool] = lambda: False
) -> Accelerator:
    """An Accelerator on the configured device; under torchrun or `accelerate launch` it joins the group.

    Args:
        config: device, precision and strategy.
        max_grad_norm: for DeepSpeed, which clips by itself.
        large: whether bf16 makes the model faster on a CPU that has it; asked where `auto` depends on it.

    Raises:
        UserError: the configured device is not there, or the devices cannot share a run in the configured way.
    """
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device, large)
    if device == "cpu" and precision is Precision.bf16 and config.precision is Precision.auto:
        logger.info(
            "precision bf16: a large model, on a processor with bf16 instructions; gpu.precision=fp32 trains in float32"
        )
    if device == "cpu":
        keep_freed_memory()
    plugins = _plugins(config.strategy, device, precision, max_grad_norm)
    torch.set_float32_matmul_precision("high" if precision is Precision.tf32 else "highest")
    forget_accelerator()
    try:
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if precision is Precision.bf16 else "no",
            step_scheduler_with_optimizer=False,
            **plugins,
        )
    except (AssertionError, ImportError, ValueError) as error:
        asked = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("ACCELERATE_")]
        if not asked:
            raise
        raise UserError(
            f"{', '.join(asked)}: {error}\nUnset these variables; gpu= says what rmbench runs on."
        ) from error
    accelerator.gradient_accumulation_steps = 1  # a variable of Accelerate's would divide every gradient
    if config.count not in (None, accelerator.num_processes) and accelerator.num_processes > 1:
        raise UserError(f"gpu.count={config.count}, but {accelerator.num_processes} processes were started.")
    return accelerator


def _plugins(strategy: Strategy, device: str, precision: Precision, max_grad_norm: float) -> dict[str, Any]:
    """Arguments for Accelerate that the strategy needs.

    Args:
        strategy: how the processes share the work.
        device: its type, such as `cuda`.
        precision: of the computation.
        max_grad_norm: for DeepSpeed, which clips by itself.

    Raises:
        UserError: the strategy needs CUDA or a package.
    """
    if strategy in (Strategy.none, Strategy.ddp):
        return {}
    _refuse_without_cuda(strategy, device)
    if strategy is Strategy.fsdp:
        return {
            "fsdp_plugin": FullyShardedDataParallelPlugin(
                fsdp_version=2,
                reshard_after_forward=True,
                auto_wrap_policy="transformer_based_wrap",
                state_dict_type="SHARDED_STATE_DICT",
                cpu_ram_efficient_loading=False,
            )
        }
    if find_spec("deepspeed") is None:
        raise UserError(
            f"gpu={strategy.name} needs DeepSpeed: pip install deepspeed (in a clone: pip install -e '.[deepspeed]')."
            " gpu=fsdp needs no extra package."
        )
    return {"deepspeed_plugin": DeepSpeedPlugin(hf_ds_config=deepspeed_config(strategy, precision, max_grad_norm))}


def _refuse_without_cuda(strategy: Strategy, device: str) -> None:
    if device != "cuda":  # Accelerate would take DDP and say nothing
        raise UserError(f"gpu={strategy.name} needs CUDA, this is {device}; gpu=ddp works here too.")


def deepspeed_config(strategy: Strategy, precision: Precision, max_grad_norm: float) -> Json:
    """DeepSpeed's configuration. The batch size in it has no effect: the training loop splits its batches."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": precision is Precision.bf16},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": ZERO_STAGE[strategy],
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }


def wrapped(accelerator: Accelerator, strategy: Strategy, model: nn.Module, optimizer: object) -> tuple[Any, Any]:
    """Model and optimizer, wrapped for the strategy; a model that is sharded already is unchanged.

    Args:
        accelerator: of the run.
        strategy: how several devices share the model.
        model: on its device.
        optimizer: of the model's trained parameters.

    Raises:
        RuntimeError: Accelerate did not wrap the model as requested.
    """
    if isinstance(model, FSDPModule):
        return accelerator.prepare_model(model, evaluation_mode=True), accelerator.prepare_optimizer(optimizer)
    # In one call: FSDP exchanges the parameters, and Accelerate gives the optimiser the new ones only if it has both.
    model, optimizer = accelerator.prepare(model, optimizer)
    kinds: dict[Strategy, str] = {Strategy.ddp: DistributedDataParallel.__name__, Strategy.fsdp: FSDPModule.__name__}
    expected = "DeepSpeedEngine" if strategy in ZERO_STAGE else kinds.get(strategy)
    if strategy is Strategy.ddp and accelerator.num_processes == 1:
        expected = None  # nothing to share
    if expected is not None and expected not in {kind.__name__ for kind in type(model).__mro__}:
        raise RuntimeError(f"gpu={strategy.name}: Accelerate made a {type(model).__name__} of the model")
    return model, optimizer


def sharded(accelerator: Accelerator, model: nn.Module) -> bool:
    """Whether no rank has all weights, so that all ranks must run the same number of forward passes."""
    stage = getattr(accelerator.state.deepspeed_plugin, "zero_stage", 0) if accelerator.state.deepspeed_plugin else 0
    return isinstance(model, FSDPModule) or stage == 3


def whole_state(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """All weights by name, on every rank or only on rank 0; every rank must call this."""
    state: dict[str, Tensor] = accelerator.get_state_dict(model)
    return state


def precision_name(accelerator: Accelerator) -> str:
    """Name of the precision: fp32, tf32 or bf16. Accelerate calls the first two "no"."""
    if accelerator.mixed_precision == "no":
        return "tf32" if torch.get_float32_matmul_precision() == "high" else "fp32"
    return str(accelerator.mixed_precision)


def pick_device(device: Device) -> str:
    """The configured device, or for `auto` the first available one of cuda, mps and cpu.

    Raises:
        UserError: the configured device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device is Device.auto:
        return next(name for name, available in there.items() if available)
    if not there[device.name]:
        have = ", ".join(name for name, available in there.items() if available)
        raise UserError(f"gpu.device={device.name}: this machine has none; it has {have}. gpu=auto selects the best.")
    return device.name


def processes(config: GpuConfig) -> int:
    """Number of processes that the strategy starts on this machine.

    Raises:
        UserError: there is no GPU; only `ddp` works there, and the number of its processes has to be given.
    """
    if config.count is not None or config.strategy is Strategy.none:
        return config.count or 1
    if (device := pick_device(config.device)) != "cuda":
        if config.strategy is not Strategy.ddp:
            _refuse_without_cuda(config.strategy, device)
        raise UserError(
            "gpu=ddp starts one process per GPU, and no GPU is used here. gpu=auto trains in one process; to share the"
            " CPU among processes, set their number, such as gpu.count=2."
        )
    return torch.cuda.device_count()


def pick_precision(precision: Precision, device: str, large: Callable[[], bool] = lambda: False) -> Precision:
    """The precision; `auto` is bf16 on CUDA 8.0 and later and for large models on some CPUs, otherwise fp32.

    Args:
        precision: as configured.
        device: its type.
        large: as of `make_accelerator`.

    Raises:
        UserError: the device does not have this precision.
    """
    if precision is Precision.tf32 and device != "cuda":
        raise UserError(f"gpu.precision=tf32 needs CUDA, this is {device}; gpu.precision=auto selects a supported one.")
    if precision is not Precision.auto:
        return precision
    if device == "cuda":
        gains = torch.cuda.get_device_capability() >= (8, 0)
    else:
        gains = device == "cpu" and multiplies_bf16() and large()
    return Precision.bf16 if gains else Precision.fp32


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products; without them bf16 is slower than float32."""
    found: Json = getattr(torch.cpu, "get_capabilities", dict)()  # of torch 2.10 and later
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16"))
