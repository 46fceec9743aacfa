"""The weight whose exponent is measured: by hand, from rows, and the same after a resumption."""

import dataclasses
import math
import shutil

import pytest
import torch

from helpers.runs import read_history, with_training
from rmbench.config import DiagnosticsConfig, LossConfig
from rmbench.diagnostics import slope
from rmbench.diagnostics.measure import Rows
from rmbench.losses import PairLoss
from rmbench.modeling.output import PairOutput
from rmbench.train import train


def output_at(*distances):
    chosen = torch.tensor([[d, 0.0] for d in distances])
    rewards = torch.zeros(len(distances))
    return PairOutput(rewards, rewards, chosen, torch.zeros_like(chosen))


def test_the_weight_by_hand():
    # mu = 2.5, at exponent 1/2: sqrt(2.5 / 1) and sqrt(2.5 / 4); before a measurement at 1: 2.5 and 2.5 / 4
    loss = PairLoss(LossConfig(weighting="matched"))
    assert loss(output_at(1.0, 4.0)).weight.tolist() == pytest.approx([2.5, 0.625], rel=1e-5)
    assert loss.observe_slope(0.5) == {"slope": 0.5, "exponent": 0.5}
    assert loss(output_at(1.0, 4.0)).weight.tolist() == pytest.approx([math.sqrt(2.5), math.sqrt(0.625)], rel=1e-5)
    assert loss.observe_slope(-0.3)["exponent"] == 0
    assert loss(output_at(1.0, 4.0)).weight.tolist() == [1.0, 1.0]
    assert loss.observe_slope(7.0)["exponent"] == 2


def test_the_state_brings_the_exponent_back():
    loss, again = (PairLoss(LossConfig(weighting="matched")) for _ in range(2))
    loss.observe_slope(0.66)
    loss.update(2.0)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(output_at(1.0, 4.0)).weight, loss(output_at(1.0, 4.0)).weight)


def test_other_weights_ignore_the_slope():
    for weighting in ("none", "l2", "distance"):
        loss = PairLoss(LossConfig(weighting=weighting))
        assert not loss.needs_slope
        before = loss(output_at(1.0, 4.0)).weight
        loss.observe_slope(0.5)
        assert torch.equal(loss(output_at(1.0, 4.0)).weight, before)


def test_the_slope_of_rows_by_hand():
    # norm = error x distance^0.7; a pair without a distance says nothing
    distance, error = [0.5, 1.0, 2.0, 4.0, 0.0], [0.1, 0.6, 0.3, 0.5, 0.5]
    norm = [e * d**0.7 for d, e in zip(distance, error, strict=True)]
    rows = Rows({"distance": distance, "prediction_error": error, "gradient_norm": norm})
    assert slope.slope_of(rows) == pytest.approx(0.7)
    few = Rows({name: values[:2] for name, values in rows.columns.items()})
    assert math.isnan(slope.slope_of(few))


def test_a_resumed_run_measures_at_the_same_steps(train_config, tmp_path, monkeypatch):
    monkeypatch.setattr(slope, "PAIRS", 8)
    monkeypatch.setattr(slope, "SHARE", 0.25)  # 2 x 8 / (0.25 x 16): every fourth step
    config = train_config(max_steps=8, save_steps=5, logging_steps=1)
    config = dataclasses.replace(config, loss=LossConfig(weighting="matched"), diagnostics=DiagnosticsConfig(every=0))
    assert config.training.batch_size == 16
    train(config, tmp_path / "whole")
    measured = [row["step"] for row in read_history(tmp_path / "whole") if "exponent" in row or "train/exponent" in row]
    assert measured == [1, 4, 8]
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    train(with_training(config, resume=True), tmp_path / "run")
    ours, expected = ((tmp_path / name / "checkpoint" / "model.safetensors").read_bytes() for name in ("run", "whole"))
    assert ours == expected
    exponents = [
        [row.get("train/exponent", row.get("exponent")) for row in read_history(tmp_path / name)]
        for name in ("whole", "run")
    ]
    assert exponents[0] == exponents[1]
