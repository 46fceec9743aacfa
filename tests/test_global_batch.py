"""What is learnt depends on the global batch, not on how it is split into forward passes and over processes."""

import dataclasses
import math
import os
import subprocess
import sys

import pytest
import torch

from helpers import float64_training
from helpers.float64_training import LOSSES, assert_same, trained_in_float64
from helpers.runs import read_history, recorded_pairs
from rmbench.data.dataset import load_dataset
from rmbench.data.text import tokenize_pairs
from rmbench.modeling.layout import Padded, Shared, run_inputs
from rmbench.modeling.loading import new_reward_model
from rmbench.train import train


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
    rows = recorded_pairs(tmp_path / "run" / "diagnostics").to_pylist()
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
    launched = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        float64_training.__file__,
        str(tmp_path),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launched, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, config in LOSSES.items():
        expected = trained_in_float64(config, Shared, tmp_path / name / "one")
        for rank in range(2):
            assert_same(torch.load(tmp_path / name / f"rank-{rank}.pt"), expected)
        history = read_history(tmp_path / name / "two")
        assert history[-1]["train/loss"] == pytest.approx(read_history(tmp_path / name / "one")[-1]["train/loss"])
