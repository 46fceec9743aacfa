"""Memory that runs out: the step begins again with smaller forward passes, and what is learnt stays the same.

And memory that was freed: it is kept, or given back.
"""

import dataclasses
import os
import platform
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from helpers.runs import read_history
from rmbench.config import DiagnosticsConfig, Gradient, LossConfig
from rmbench.data.dataset import load_dataset
from rmbench.data.text import tokenize_pairs
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.measure import MeasuringPass
from rmbench.errors import UserError
from rmbench.files import read_json
from rmbench.losses import PairLoss
from rmbench.modeling.layout import Shared
from rmbench.modeling.loading import new_reward_model
from rmbench.modeling.memory import halved, out_of_memory
from rmbench.modeling.model import RewardModel
from rmbench.modeling.scoring import score_pairs
from rmbench.train import train


@pytest.fixture
def little_memory(monkeypatch):
    """A device on which a forward pass of more than `limit` tokens fails, after part of the work was done."""
    limit = {"tokens": 10**9}
    whole = RewardModel.forward

    def forward(self, rows):
        output = whole(self, rows)
        if rows.input_ids.numel() > limit["tokens"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return output

    monkeypatch.setattr(RewardModel, "forward", forward)
    return limit


def test_a_step_that_does_not_fit_is_split_and_the_limit_is_remembered(train_config, tmp_path, little_memory, caplog):
    config = train_config("distance", max_steps=6, save_steps=3, max_grad_norm=0)
    whole = train(config, tmp_path / "whole")
    little_memory["tokens"] = 300
    with caplog.at_level("INFO"):
        split = train(config, tmp_path / "split")
    assert split["mu"] == pytest.approx(whole["mu"], rel=1e-5)
    assert split["eval"]["loss"] == pytest.approx(whole["eval"]["loss"], rel=1e-4)
    state = read_json(next((tmp_path / "split" / "checkpoints").glob("step-*3")) / "state.json")
    assert state["budget_tokens"] <= 300
    assert "out of memory; continuing with" in caplog.text
    rows = read_history(tmp_path / "split")
    assert [row["step"] for row in rows] == [row["step"] for row in read_history(tmp_path / "whole")]


def test_memory_that_runs_out_late_in_a_step_leaves_nothing_of_it(train_config, tmp_path, monkeypatch):
    """The first of the step's passes has given its gradient already when the second fails."""
    config = train_config(max_steps=2, logging_steps=1, micro_batch_tokens=120)
    train(config, tmp_path / "whole")
    whole, failed = RewardModel.forward, []

    def forward(self, rows):
        if self.head.weight.grad is not None and not failed:
            failed.append(rows)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, rows)

    monkeypatch.setattr(RewardModel, "forward", forward)
    train(config, tmp_path / "again")
    assert failed
    first, second = (read_history(tmp_path / name) for name in ("whole", "again"))
    assert second[0]["train/grad_norm"] == pytest.approx(first[0]["train/grad_norm"], rel=1e-5)
    assert second[1]["train/loss"] == pytest.approx(first[1]["train/loss"], rel=1e-5)


def test_a_probe_that_does_not_fit_is_split(train_config, tmp_path, little_memory):
    exact = DiagnosticsConfig(every=2, gradient=Gradient.exact, probe_pairs=16)
    config = dataclasses.replace(train_config(max_steps=2), diagnostics=exact)
    train(config, tmp_path / "whole")
    little_memory["tokens"] = 200
    train(config, tmp_path / "split")
    first, second = (
        pq.read_table(tmp_path / name / "diagnostics" / "probe.parquet").to_pandas() for name in ("whole", "split")
    )
    first, second = (table.sort_values(["step", "pair_id"])["gradient_norm"] for table in (first, second))
    np.testing.assert_allclose(first, second, rtol=1e-3)


def test_a_study_is_the_same_however_often_memory_ran_out(train_config, little_memory):
    config = train_config()
    model, tokenizer = new_reward_model(config.backbone, "sdpa", seed=0)
    pairs, _ = tokenize_pairs(load_dataset(config.dataset).eval, tokenizer, 64, drop_identical=True)
    measuring = MeasuringPass(model, Shared(model.pad_id), torch.device("cpu"), PairGradients(model, sketch=31))
    expected = measuring(pairs, PairLoss(LossConfig()), 10**6)
    assert expected.columns["pair_id"] == [pair.pair.id for pair in pairs]
    little_memory["tokens"] = 100
    got = measuring(pairs, PairLoss(LossConfig()), 10**6)
    assert got.columns["pair_id"] == expected.columns["pair_id"]
    for name in ("margin", "distance", "margin_gradient_norm", "gradient_norm"):
        np.testing.assert_allclose(got.columns[name], expected.columns[name], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.sketch(), expected.sketch(), atol=1e-4)
    little_memory["tokens"] = 10
    with pytest.raises(UserError, match=r"single pair of \d+ tokens does not fit.*\n.*max_length"):
        measuring(pairs, PairLoss(LossConfig()), 10**6)


def test_a_device_that_is_far_too_small_is_one_message(train_config, tmp_path, little_memory):
    little_memory["tokens"] = 10
    with pytest.raises(UserError, match=r"4 pairs of at most \d+ tokens do not fit into memory"):
        train(train_config(), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []  # which the command then removes


def test_scores_are_the_same_however_often_memory_ran_out(train_config, little_memory):
    config = train_config()
    model, tokenizer = new_reward_model(config.backbone, "sdpa", seed=0)
    pairs, _ = tokenize_pairs(load_dataset(config.dataset).eval, tokenizer, 64)
    layout = Shared(model.pad_id)
    expected = score_pairs(model, pairs, layout, torch.device("cpu"), 10**6)
    little_memory["tokens"] = 100
    got = score_pairs(model, pairs, layout, torch.device("cpu"), 10**6)
    assert got.chosen == pytest.approx(expected.chosen, abs=1e-6)
    assert got.distance == pytest.approx(expected.distance, abs=1e-6)
    little_memory["tokens"] = 10
    with pytest.raises(UserError, match=r"single pair of \d+ tokens does not fit.*\n.*max_length"):
        score_pairs(model, pairs, layout, torch.device("cpu"), 10**6)


def test_halving_by_hand():
    assert halved(65536, 3000, 12, "") == 1500
    assert halved(1000, 3000, 12, "") == 500
    with pytest.raises(UserError, match=r"3000 tokens.*\nless"):
        halved(65536, 3000, 1, "less")


def test_other_errors_are_not_taken_for_memory():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_the_layout_check_does_not_hide_other_errors(train_config, tmp_path, monkeypatch):
    def broken(self, rows):
        raise AttributeError("a fault of ours")

    monkeypatch.setattr(RewardModel, "pool", broken)
    with pytest.raises(AttributeError, match="a fault of ours"):
        train(train_config(), tmp_path / "run")


KEPT = """
import resource, torch
from rmbench.config import Device, GpuConfig
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.memory import give_back_memory

def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

make_accelerator(GpuConfig(device=Device.cpu))
blocks = [torch.ones(20, 2**18) for _ in range(4)]
full = resident_mib()
del blocks
kept = resident_mib()
give_back_memory()
print(full - kept, kept - resident_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told what to keep")
def test_freed_memory_is_kept_until_it_is_given_back():
    """80 MiB; glibc itself would hand each block back at once."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True, env=own)
    at_once, given_back = map(float, done.stdout.split())
    assert at_once < 5
    assert given_back > 70
