"""What is learnt depends on the global batch, not on how it is split into forward passes and over processes.

Run by `torch.distributed.run` with a folder as its argument, this file trains under each loss in two processes.
"""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
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
    TrainingConfig,
)
from rmbench.data.dataset import load_dataset
from rmbench.data.ratings import with_scaled_ratings
from rmbench.data.text import tokenize_pairs
from rmbench.diagnostics.records import PairRecorder
from rmbench.files import read_jsonl
from rmbench.losses import PairLoss
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.layout import Padded, Shared, run_inputs
from rmbench.modeling.loading import new_reward_model
from rmbench.tracking import Tracker
from rmbench.train import train
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
    loss = PairLoss(loss_config)
    dataset = load_dataset(DatasetConfig(name="synthetic", train_size=64, eval_size=32))
    if loss.needs_rating:
        dataset.train = with_scaled_ratings(dataset.train, loss_config.rating_scale, loss_config.pairwise)
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed=0)
    pairs, _ = tokenize_pairs(dataset.train, tokenizer, 64)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        training,
        model=model.double(),
        tokenizer=tokenizer,
        loss=loss,
        train_pairs=pairs,
        eval_pairs=pairs[:4],
        accelerator=make_accelerator(GpuConfig(device=Device.cpu)),
        folder=folder,
        recorder=PairRecorder(folder, 0, Gradient.off),
        tracker=Tracker(),
        layout=layout(model.pad_id),
        eval_layout=layout(model.pad_id),
        eval_tokens=1000,
        seed=0,
    )
    trainer.train()
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    return parameters | {f"loss.{name}": value for name, value in loss.state_dict().items()}


def assert_same(ours, expected):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-7, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(("name", "layout"), [*((name, Shared) for name in LOSSES), ("bt", Padded), ("normbt", Padded)])
def test_micro_batches_do_not_change_what_is_learnt(tmp_path, name, layout):
    expected = trained_in_float64(LOSSES[name], layout, tmp_path / "whole")
    splits = {"1": {"micro_batch_size": 1}, "2": {"micro_batch_size": 2}, "8": {"micro_batch_size": 8}}
    for split, changes in {**splits, "tokens": {"micro_batch_tokens": 150}}.items():
        assert_same(trained_in_float64(LOSSES[name], layout, tmp_path / split, **changes), expected)


def test_exact_weights_are_mu_over_the_norm_of_each_pairs_whole_gradient(tmp_path, train_config):
    config = dataclasses.replace(train_config(max_steps=1, micro_batch_size=3), loss=LOSSES["exact"])
    diagnostics = dataclasses.replace(config.diagnostics, every=1, probe_pairs=0)
    train(dataclasses.replace(config, diagnostics=diagnostics), tmp_path / "run")
    rows = pq.read_table(tmp_path / "run" / "diagnostics" / "pairs.parquet").to_pylist()
    model, tokenizer = new_reward_model(config.backbone, "sdpa", seed=0)
    pairs, _ = tokenize_pairs(load_dataset(config.dataset).train, tokenizer, 512)
    of_id = {pair.pair.id: pair for pair in pairs}
    norms = []
    for row in rows:  # the slow way: one backward pass per pair
        margin = run_inputs(model, Padded(model.pad_id).inputs([of_id[row["pair_id"]]])).margin.sum()
        norms.append(math.hypot(*(g.norm().item() for g in torch.autograd.grad(margin, list(model.parameters())))))
    mu = sum(norms) / len(norms)
    assert len(rows) == 16
    assert [row["weight"] for row in rows] == pytest.approx([mu / norm for norm in norms], rel=1e-4)


def test_two_processes_learn_what_one_does_under_every_loss(tmp_path):
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", __file__, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launched, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, config in LOSSES.items():
        expected = trained_in_float64(config, Shared, tmp_path / name / "one")
        for rank in range(2):
            assert_same(torch.load(tmp_path / name / f"rank-{rank}.pt"), expected)
        history = read_jsonl(tmp_path / name / "two" / "history.jsonl")
        assert history[-1]["loss"] == pytest.approx(read_jsonl(tmp_path / name / "one" / "history.jsonl")[-1]["loss"])


def main(folder):
    for name, config in LOSSES.items():
        # so many tokens that one process passes twice, the other once, in some steps
        learnt = trained_in_float64(config, Shared, folder / name / "two", micro_batch_tokens=170)
        torch.save(learnt, folder / name / f"rank-{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
