"""Trains in float64 with each loss; as a program, in each of several processes: float64_training.py FOLDER"""

import dataclasses
import os
import sys
from pathlib import Path

import torch

from rmbench.config import (
    BackboneConfig,
    DatasetConfig,
    Device,
    DistanceConfig,
    GpuConfig,
    Gradient,
    LossConfig,
    Measure,
    RegularizerConfig,
    TrainConfig,
    TrainingConfig,
)
from rmbench.data.dataset import load_dataset
from rmbench.data.ratings import with_scaled_ratings
from rmbench.data.text import tokenize_pairs
from rmbench.diagnostics.records import PairRecorder
from rmbench.losses import PairLoss
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.layout import Shared
from rmbench.modeling.loading import new_reward_model
from rmbench.training.run import Run
from rmbench.training.setup import Inputs
from rmbench.training.trainer import Trainer


def by_distance(**changes):
    return LossConfig(weighting="distance", distance=DistanceConfig(**changes))


LOSSES = {
    "bt": LossConfig(),
    "normbt": by_distance(),
    "bsr": LossConfig(regularizer=RegularizerConfig(bsr=0.5)),
    "centred_cosine": by_distance(measure=Measure.centred_cosine),
    "mean_one": by_distance(normalize=True),
    "whitened_batch_mean": by_distance(measure=Measure.whitened, ema=False),
    "exact": LossConfig(weighting="exact"),
    "margin_out_pos_reg": dataclasses.replace(
        by_distance(), pairwise="bt_margin_out", regularizer=RegularizerConfig(pos_reg=0.2)
    ),
}


def trained_in_float64(loss_config, layout, folder, **changes):
    """Parameters and the state of the loss; stock RMSNorm computes in float32 all the same."""
    training = TrainingConfig(
        **{"batch_size": 16, "learning_rate": 1e-3, "max_grad_norm": 0, "max_steps": 6, **changes}
    )
    data = DatasetConfig(name="synthetic", train_size=64, eval_size=32)
    config = TrainConfig(dataset=data, training=training, gpu=GpuConfig(device=Device.cpu, eval_tokens=1000))
    loss = PairLoss(loss_config)
    dataset = load_dataset(data)
    if loss.needs_rating:
        dataset.train = with_scaled_ratings(dataset.train, loss_config.rating_scale, loss_config.pairwise)
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed=0)
    pairs, _ = tokenize_pairs(dataset.train, tokenizer, 64)
    folder.mkdir(parents=True, exist_ok=True)
    rows = layout(model.pad_id)
    inputs = Inputs(model.double(), tokenizer, loss, pairs, pairs[:4], layout=rows, eval_layout=rows)
    run = Run(config, folder, make_accelerator(config.gpu))
    Trainer(run, inputs, PairRecorder(folder, 0, Gradient.off)).train()
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    return parameters | {f"loss.{name}": value for name, value in loss.state_dict().items()}


def assert_same(ours, expected):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-7, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


def main(folder):
    for name, config in LOSSES.items():
        # so many tokens that one process passes twice, the other once, in some steps
        learnt = trained_in_float64(config, Shared, folder / name / "two", micro_batch_tokens=170)
        torch.save(learnt, folder / name / f"rank-{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
