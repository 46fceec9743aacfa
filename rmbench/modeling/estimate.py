"""How much memory a training step will take on one device, from one small forward pass, before the first step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from rmbench.config import Strategy
from rmbench.data.text import TokenGroup
from rmbench.modeling.layout import Layout, run_inputs
from rmbench.modeling.model import RewardModel

logger = logging.getLogger(__name__)

GIGABYTE = 1e9
ADAMW_STATES = 2  # first and second moment


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory on one device in bytes; `per_token`: activations that the backward pass keeps per token."""

    weights: float
    gradients: float
    optimizer: float
    per_token: float

    def total(self, tokens: int) -> float:
        """Bytes in total with a forward pass of `tokens` tokens."""
        return self.weights + self.gradients + self.optimizer + self.per_token * tokens

    def text(self, tokens: int) -> str:
        """The estimate as one line for the log."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser": self.optimizer,
            f"activations of {tokens} tokens": self.per_token * tokens,
        }
        listed = " + ".join(f"{size / GIGABYTE:.2f} {name}" for name, size in parts.items())
        return f"memory per device, estimated: {self.total(tokens) / GIGABYTE:.2f} GB = {listed}"

    def report(self, tokens: int, device: torch.device) -> None:
        """Log the estimate, and what to do if a CUDA device has less memory."""
        logger.info("%s", self.text(tokens))
        there = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else float("inf")
        if self.total(tokens) > there:
            logger.warning(
                "this device has %.2f GB. What needs less: forward passes are halved by themselves; backbone.lora.r=16"
                " (weights and adapters only), training.gradient_checkpointing=true, gpu=fsdp over several devices.",
                there / GIGABYTE,
            )


def estimate(
    model: RewardModel,
    layout: Layout,
    pairs: Sequence[TokenGroup],
    strategy: Strategy = Strategy.none,
    devices: int = 1,
) -> MemoryEstimate:
    """Memory of a training step with AdamW; runs a few of `pairs` through the model to measure activations.

    What is not in it: the libraries themselves (about 0.5 GB on CUDA), and what the backward pass holds for a moment.

    Args:
        model: on its device.
        layout: how pairs become inputs.
        pairs: a few, of all lengths.
        strategy: decides what is sharded.
        devices: among how many.
    """
    inputs = layout.inputs(pairs).to(next(model.parameters()).device)
    kept = kept_bytes(model, lambda: run_inputs(model, inputs))
    return divided(model, kept / max(1, sum(layout.cost(pair) for pair in pairs)), strategy, devices)


def divided(model: nn.Module, per_token: float, strategy: Strategy, devices: int) -> MemoryEstimate:
    """Memory of a model on each of the devices that share a run.

    Args:
        model: on any device, also torch's meta device.
        per_token: bytes of activations that a token of a forward pass keeps.
        strategy: decides what is sharded.
        devices: among how many.
    """
    weights = sum(tensor.nbytes for tensor in {*model.parameters(), *model.buffers()})
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    all_sharded = strategy in (Strategy.fsdp, Strategy.deepspeed_zero3)
    sharded = all_sharded or strategy is Strategy.deepspeed_zero2
    share = 1 / devices
    return MemoryEstimate(
        weights=weights * (share if all_sharded else 1),
        gradients=trained * (share if sharded else 1),
        optimizer=ADAMW_STATES * trained * (share if sharded else 1),
        per_token=per_token,
    )


def kept_bytes(model: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes that autograd keeps between the forward and the backward pass, without the weights."""
    own = {StorageWeakRef(parameter.untyped_storage()).cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        """Count each storage once, however many views of it are kept."""
        storage = tensor.untyped_storage()
        address = StorageWeakRef(storage).cdata  # of the object: on the meta device there are no data
        if address not in own:
            kept[address] = storage.nbytes()
        return tensor

    on_cpu = next(model.parameters()).device.type == "cpu"
    was_training = model.training
    model.train()
    with torch.random.fork_rng(enabled=on_cpu), torch.autograd.graph.saved_tensors_hooks(pack, _same):
        output = forward()  # alive until all is counted, so that no address is used twice
    model.train(was_training)
    del output
    return sum(kept.values())


def _same(tensor: Tensor) -> Tensor:
    return tensor
