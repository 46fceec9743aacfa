"""Exact norms and the probe set inside a run: right, the same pairs throughout, no effect on what is learnt."""

import dataclasses
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import logsigmoid

from helpers.layouts import token_pair
from helpers.runs import read_history, with_training
from rmbench.config import (
    BackboneConfig,
    DiagnosticsConfig,
    Gradient,
    HeadKind,
    LayoutName,
    LossConfig,
    RegularizerConfig,
)
from rmbench.data.dataset import load_dataset
from rmbench.data.formats import Pair
from rmbench.data.text import TokenPair, tokenize_pairs
from rmbench.diagnostics import directions
from rmbench.diagnostics.probe import choose_probe
from rmbench.losses import PairBatch, PairLoss
from rmbench.modeling.layout import Padded, run_inputs
from rmbench.modeling.loading import new_reward_model
from rmbench.train import train

FULL = DiagnosticsConfig(every=4, gradient=Gradient.exact, probe_pairs=12)


def columns(path):
    return {name: np.array(values) for name, values in pq.read_table(path).to_pydict().items()}


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_a_runs_norms_are_those_of_a_loop_and_nothing_learnt_changes(train_config, tmp_path, layout):
    plain = dataclasses.replace(train_config(), layout=LayoutName[layout])
    train(plain, tmp_path / "plain")
    train(dataclasses.replace(plain, diagnostics=FULL), tmp_path / "full")
    weights = [(tmp_path / name / "checkpoint" / "model.safetensors").read_bytes() for name in ("plain", "full")]
    assert weights[0] == weights[1]

    recorded = columns(tmp_path / "full" / "diagnostics" / "pairs.parquet")
    probed = columns(tmp_path / "full" / "diagnostics" / "probe.parquet")
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", 0)
    data = load_dataset(plain.dataset)
    pairs = {p.pair.id: p for p in tokenize_pairs([*data.train, *data.eval], tokenizer, 512)[0]}
    for table in (recorded, probed):
        first = table["step"] == 1
        assert first.sum() >= 12
        for id_, norm in zip(table["pair_id"][first], table["gradient_norm"][first], strict=True):
            model.zero_grad()
            (-logsigmoid(run_inputs(model, Padded(model.pad_id).inputs([pairs[id_]])).margin).sum()).backward()
            loop = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
            assert norm == pytest.approx(loop, rel=1e-4)
    assert (recorded["gradient_norm"] > recorded["head_gradient_norm"]).all()
    np.testing.assert_allclose(
        probed["gradient_norm"], probed["loss_slope"] * probed["margin_gradient_norm"], rtol=1e-5
    )

    steps = sorted(set(probed["step"].tolist()))
    assert steps == [1, 4, 8]
    ids = [sorted(probed["pair_id"][probed["step"] == step]) for step in steps]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids[0])) == 12
    assert len(set(probed["section"])) == 4
    history = {row["step"]: row for row in read_history(tmp_path / "full")}
    shares = {k: v for k, v in history[4].items() if k.startswith("probe/gradient/share/")}
    assert set(shares) == {f"probe/gradient/share/{b}" for b in ("embedding", "block_0", "block_1", "other", "head")}
    assert sum(shares.values()) == pytest.approx(1)
    assert -1 <= history[4]["probe/cosine/closest_third_with_the_others"] <= 1
    assert history[4]["gradient/share_closest_third"] < 1 / 3


def test_a_frozen_backbone_has_the_heads_gradient_alone(train_config, tmp_path):
    config = train_config(max_steps=2)
    frozen = BackboneConfig(freeze=True, feature_cache=str(tmp_path / "features"))
    train(dataclasses.replace(config, backbone=frozen, diagnostics=FULL), tmp_path / "run")
    for name in ("pairs", "probe"):
        table = columns(tmp_path / "run" / "diagnostics" / f"{name}.parquet")
        np.testing.assert_allclose(table["gradient_norm"], table["head_gradient_norm"], rtol=1e-5)


def test_a_regularizer_is_part_of_the_measured_gradient(train_config, tmp_path):
    config = train_config(max_steps=1, gradient_checkpointing=True)
    loss = dataclasses.replace(config.loss, regularizer=RegularizerConfig(centring=0.5))
    train(dataclasses.replace(config, loss=loss, diagnostics=FULL), tmp_path / "run")
    table = columns(tmp_path / "run" / "diagnostics" / "probe.parquet")
    assert not np.allclose(table["gradient_norm"], table["loss_slope"] * table["margin_gradient_norm"], rtol=1e-2)
    assert (table["gradient_norm"] >= table["head_gradient_norm"]).all()


def test_exact_weights_make_the_probes_gradients_alike(train_config, tmp_path):
    config = train_config(max_steps=1)
    loss = dataclasses.replace(config.loss, weighting="exact")
    train(dataclasses.replace(config, loss=loss, diagnostics=FULL), tmp_path / "run")
    table = columns(tmp_path / "run" / "diagnostics" / "probe.parquet")
    # mu / ||grad margin|| each, and mu is the probe's own mean in the first step
    alike = table["weight"] * table["margin_gradient_norm"]
    np.testing.assert_allclose(alike, table["margin_gradient_norm"].mean(), rtol=1e-4)
    assert (table["gradient_norm"] > 0).all()
    recorded = columns(tmp_path / "run" / "diagnostics" / "pairs.parquet")  # the step measured them for its weights
    np.testing.assert_allclose(
        recorded["gradient_norm"], recorded["loss_slope"] * recorded["margin_gradient_norm"], rtol=1e-4
    )
    assert list(recorded) == list(table)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_probe(train_config, tmp_path):
    config = dataclasses.replace(train_config(save_steps=4), diagnostics=FULL)
    train(config, tmp_path / "whole")
    train(with_training(config, max_steps=8, save_steps=4), tmp_path / "other")
    (tmp_path / "other" / "metrics.json").unlink()
    train(with_training(config, resume=True), tmp_path / "other")
    whole, other = (columns(tmp_path / name / "diagnostics" / "probe.parquet") for name in ("whole", "other"))
    assert all((whole[name] == other[name]).all() for name in whole)


def test_the_probe_is_spread_over_sources_sections_and_distances():
    message = [{"role": "user", "content": "x"}]
    where = [("a", "x")] * 50 + [("b", "x")] * 50 + [("b", "y")] * 3
    pairs = [
        TokenPair(Pair(message, message, message, source=s, section=t, id=f"{i}"), [1], [2])
        for i, (s, t) in enumerate(where)
    ]
    distance = np.arange(103.0) % 50
    chosen = choose_probe(pairs, distance, 23)
    ids = [int(p.pair.id) for p in chosen]
    assert sum(i < 50 for i in ids) == 10
    assert sum(i >= 100 for i in ids) == 3
    assert sorted(i for i in ids if i < 50) == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47]
    assert [distance[i] for i in ids] == sorted(distance[i] for i in ids)
    assert len(choose_probe(pairs, distance, 1000)) == 103
    assert choose_probe([token_pair("tie", [1], [1])], np.zeros(1), 5) == []


def test_directions_by_hand():
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [3.0, 3.0]])
    root = math.sqrt(0.5)
    assert directions.mean_cosine(rows) == pytest.approx((0 + root + root) / 3)
    others = directions.cosine_with_the_others(rows)
    np.testing.assert_allclose(
        others, [3 / math.hypot(3, 5), 3 / math.hypot(4, 3), 0, (1 + 2) * root / math.hypot(1, 2)]
    )
    between = directions.section_cosines(rows, ["s", "t", "t", "s"])
    assert between == {("s", "t"): pytest.approx(3 / 5)}
    assert math.isnan(directions.mean_cosine(rows[:1]))


def test_sketches_of_torch_and_numpy_are_of_one_mind():
    rows = torch.randn(5, 7, dtype=torch.float64)
    unit = torch.nn.functional.normalize(rows)
    cosines = (unit @ unit.T)[~torch.eye(5, dtype=torch.bool)]
    assert directions.mean_cosine(rows.numpy()) == pytest.approx(float(cosines.mean()))


def test_the_probe_knows_terms_that_are_not_of_the_rewards(train_config, tmp_path):
    """InfoRM's KL term moves the head's code; a loop of autograd over the whole loss knows it too."""
    backbone = BackboneConfig(head=HeadKind.bottleneck, head_width=16)
    loss = LossConfig(regularizer=RegularizerConfig(kl=0.1))
    config = dataclasses.replace(train_config(max_steps=1), backbone=backbone, loss=loss, diagnostics=FULL)
    train(config, tmp_path / "run")
    probed = columns(tmp_path / "run" / "diagnostics" / "probe.parquet")
    model, tokenizer = new_reward_model(backbone, "sdpa", seed=0)
    pairs, _ = tokenize_pairs(load_dataset(config.dataset).eval, tokenizer, 256)
    by_id = {pair.pair.id: pair for pair in pairs}
    model.eval()
    for name, norm in zip(probed["pair_id"], probed["gradient_norm"], strict=True):
        batch = PairBatch(run_inputs(model, Padded(model.pad_id).inputs([by_id[name]])), None)
        value = PairLoss(loss)(batch, PairLoss(loss).statistics(batch, lambda total: total)).loss.sum()
        gradients = torch.autograd.grad(value, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        assert norm == pytest.approx(math.hypot(*(float(g.norm()) for g in gradients if g is not None)), rel=1e-4)
