"""Trains in float64 with each loss; run by one process and by two. python two_processes.py FOLDER STRATEGY"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from rmbench.config import (
    BackboneConfig,
    DatasetConfig,
    DistanceConfig,
    GpuConfig,
    Gradient,
    LossConfig,
    RegularizerConfig,
    Strategy,
    TrainConfig,
    TrainingConfig,
)
from rmbench.data.dataset import load_dataset
from rmbench.data.text import tokenize_pairs
from rmbench.diagnostics.records import PairRecorder
from rmbench.losses import PairLoss
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.layout import Shared
from rmbench.modeling.loading import new_reward_model
from rmbench.training.run import Run
from rmbench.training.setup import Inputs
from rmbench.training.trainer import Trainer

LOSSES = {
    "bt": LossConfig(pairwise="bt"),
    "normbt": LossConfig(pairwise="bt", weighting="distance", distance=DistanceConfig(eps=1e-6)),
    "bsr": LossConfig(pairwise="bt", regularizer=RegularizerConfig(bsr=0.1)),
}


def trained(loss_config, folder, how):
    training = TrainingConfig(
        max_steps=20, batch_size=16, micro_batch_size=3, learning_rate=1e-3, logging_steps=1, max_grad_norm=0.5
    )
    gpu = GpuConfig(strategy=Strategy.ddp if how == "ddp" else Strategy.none, eval_tokens=200)
    data = DatasetConfig(name="synthetic", train_size=64, eval_size=21)
    dataset = load_dataset(data)
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed=0)
    model.double()
    pairs, _ = tokenize_pairs(dataset.train, tokenizer, 64)
    eval_pairs, _ = tokenize_pairs(dataset.eval, tokenizer, 64)
    accelerator = make_accelerator(gpu)
    layout = Shared(model.pad_id)
    if how == "fsdp":
        for layer in model.network.model.layers:
            fully_shard(layer)
        fully_shard(model)
    loss = PairLoss(loss_config)
    run = Run(TrainConfig(dataset=data, training=training, gpu=gpu), folder, accelerator)
    inputs = Inputs(model, tokenizer, loss, pairs, eval_pairs, layout=layout, eval_layout=layout)
    trainer = Trainer(run, inputs, PairRecorder(folder, 0, Gradient.off))
    trainer.train()
    evaluated = trainer.evaluate()
    parameters = {
        name.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in trainer.model.named_parameters()
    }
    parameters["mu"] = torch.tensor(loss.mu or 0.0, dtype=torch.float64)
    parameters["eval_loss"] = torch.tensor(evaluated["loss"], dtype=torch.float64)
    if accelerator.is_main_process:
        save_file(parameters, folder / "parameters.safetensors")


if __name__ == "__main__":
    if sys.argv[2] == "fsdp":
        torch.distributed.init_process_group("gloo")
    for name, config in LOSSES.items():
        trained(config, Path(sys.argv[1]) / name, sys.argv[2])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
