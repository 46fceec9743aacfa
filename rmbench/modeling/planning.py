"""Memory and time of a run over N devices, known from config.json alone: no weights are read, no device is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from rmbench.config import GpuConfig, Precision, Strategy, TrainConfig
from rmbench.errors import UserError
from rmbench.modeling import heads
from rmbench.modeling.devices import pick_device, pick_precision, processes
from rmbench.modeling.estimate import GIGABYTE, MemoryEstimate, divided, kept_bytes
from rmbench.modeling.memory import FIRST_BUDGET_TOKENS
from rmbench.modeling.workload import gains_from_bf16, network_without_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Plan:
    """A run's estimated memory on each device, the number of devices, and the tokens of the first forward pass."""

    memory: MemoryEstimate
    devices: int
    strategy: Strategy
    tokens: int

    def text(self) -> str:
        """The plan as one line for the log."""
        among = f"each of {self.devices} devices ({self.strategy.name})" if self.devices > 1 else "the device"
        per_token = 1000 * self.memory.per_token / GIGABYTE
        activations = "an unknown number of" if math.isnan(per_token) else f"{per_token:.2g}"
        return (
            f"memory on {among}, from the network's shapes: {self.memory.total(0) / GIGABYTE:.3g} GB of weights,"
            f" gradients and optimiser, and {activations} GB for 1,000 tokens of a"
            f" forward pass (at first up to {self.tokens:,}; halved when memory runs out)"
        )


TRIAL_TOKENS = 16  # few: torch's meta device keeps attention's scores, which the kernels of real devices do not


def memory_on_paper(config: TrainConfig, devices: int, precision: Precision) -> MemoryEstimate:
    """Memory on each of `devices` in a training step with AdamW, from the shapes of the network.

    Activations of gradient_checkpointing=true are counted as one state a layer; those of bf16 as half of float32's.
    What is not in it: the libraries, a layer's gathered weights, and adapters' few weights.

    Raises:
        UserError: the network's config cannot be had.
    """
    network = network_without_weights(config.backbone)
    if config.backbone.lora.r or config.backbone.freeze:
        network.requires_grad_(False)
        head = heads.head_name(network)
        assert head is not None
        network.get_submodule(head).requires_grad_(True)
    per_token = _per_token(network, config.training.gradient_checkpointing, frozen=config.backbone.freeze)
    per_token *= 0.5 if precision is Precision.bf16 else 1
    return divided(network, per_token, config.gpu.strategy, devices)


def device_of(gpu: GpuConfig) -> str:
    """The device type of the run; sharded weights need CUDA, also if this machine has none."""
    sharded = gpu.strategy not in (Strategy.none, Strategy.ddp)
    return "cuda" if sharded else pick_device(gpu.device)


def plan(config: TrainConfig) -> Plan:
    """The memory that a run needs on its devices, before anything is loaded.

    Raises:
        UserError: it cannot be said, and why.
    """
    device, asked = device_of(config.gpu), config.gpu.precision
    devices = config.gpu.count or (1 if config.gpu.strategy is Strategy.none else _devices(config.gpu, device))
    # bf16 is what CUDA has wherever the run will be; this machine may have none
    elsewhere = device == "cuda" and not torch.cuda.is_available()
    large = partial(gains_from_bf16, config.backbone)
    precision = Precision.bf16 if elsewhere and asked is Precision.auto else pick_precision(asked, device, large)
    tokens = config.training.micro_batch_tokens or FIRST_BUDGET_TOKENS[device]
    return Plan(memory_on_paper(config, devices, precision), devices, config.gpu.strategy, tokens)


def _devices(gpu: GpuConfig, device: str) -> int:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("gpu.count says for how many devices, where this machine has none")
    return processes(gpu)


def _per_token(network: PreTrainedModel, checkpointed: bool, frozen: bool) -> float:
    """Bytes of activations per token in float32; NaN if the network cannot run without data."""
    if frozen:
        return 0.0
    config = network.config.get_text_config()
    if checkpointed:
        return 4.0 * config.hidden_size * config.num_hidden_layers
    ids = torch.zeros(1, TRIAL_TOKENS, dtype=torch.long, device="meta")
    embeddings = network.get_input_embeddings()(ids).detach().requires_grad_()  # adapters keep the graph whole
    try:
        kept = kept_bytes(network, lambda: network.base_model(inputs_embeds=embeddings))
    except Exception:  # whatever a network does that looks at its data
        return math.nan
    return kept / TRIAL_TOKENS
