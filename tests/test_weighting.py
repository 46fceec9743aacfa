"""Weights and terms of the model against float64 oracles over random shapes; pairs at no distance in a whole run."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.batches import random_batch
from helpers.data import write_jsonl
from helpers.runs import read_history, recorded_pairs
from rmbench.config import BackboneConfig, DatasetConfig, DistanceConfig, LossConfig, Measure, RegularizerConfig
from rmbench.losses import PairBatch, PairLoss
from rmbench.modeling.heads import Bottleneck
from rmbench.modeling.loading import new_reward_model, save_reward_model
from rmbench.modeling.output import PairOutput
from rmbench.train import train


def sizes_by_numpy(h_w, h_l, measure, shrinkage):
    """Each measure's formula as it stands."""

    def one_minus_cosine(u, v):
        return 1 - (u * v).sum(1) / (np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1))

    every = np.concatenate([h_w, h_l])
    if measure is Measure.l2:
        return np.linalg.norm(h_w - h_l, axis=1)
    if measure is Measure.cosine:
        return one_minus_cosine(h_w, h_l)
    if measure is Measure.centred_cosine:
        return one_minus_cosine(h_w - every.mean(0), h_l - every.mean(0))
    hidden = h_w.shape[1]
    covariance = np.cov(every.T, bias=True).reshape(hidden, hidden)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / hidden * np.eye(hidden)
    return np.sqrt(np.einsum("ph,hk,pk->p", h_w - h_l, np.linalg.inv(shrunk), h_w - h_l))


@pytest.mark.parametrize("by", [*Measure, "exact"])
@settings(max_examples=30)
@given(
    pairs=st.integers(2, 8),
    hidden=st.integers(2, 6),
    seed=st.integers(0, 2**20),
    exponent=st.floats(0, 2),
    eps=st.sampled_from([1e-6, 0.1]),
    mu=st.none() | st.floats(0.1, 10),
    ema=st.booleans(),
    normalize=st.booleans(),
    max_weight=st.none() | st.floats(0.5, 3),
)
def test_weights_and_derivatives_equal_their_formulas(
    by, pairs, hidden, seed, exponent, eps, mu, ema, normalize, max_weight
):
    batch, _ = random_batch(pairs, hidden, seed)
    out = batch.output
    norm = torch.rand(pairs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    measure = Measure.l2 if by == "exact" else by
    distance = DistanceConfig(
        measure=measure, exponent=exponent, eps=eps, ema=ema, normalize=normalize, max_weight=max_weight, shrinkage=0.3
    )
    loss = PairLoss(LossConfig(weighting="exact" if by == "exact" else "distance", distance=distance))
    loss.mu = mu
    terms = loss(PairBatch(out, margin_gradient_norm=norm if by == "exact" else None))

    sides = (out.embeddings_chosen.numpy(), out.embeddings_rejected.numpy())
    sizes = norm.numpy() if by == "exact" else sizes_by_numpy(*sides, measure, 0.3)
    weights = ((sizes.mean() if mu is None or not ema else mu) / (sizes + eps)) ** exponent
    weights = weights if max_weight is None else np.minimum(weights, max_weight)
    if normalize:  # the limit is one of what comes out, too
        weights = np.minimum(weights / weights.mean(), np.inf if max_weight is None else max_weight)
    np.testing.assert_allclose(terms.denominator.numpy(), sizes, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(terms.weight.numpy(), weights, rtol=1e-6)
    plain = np.logaddexp(0, -out.margin.detach().numpy())
    np.testing.assert_allclose(terms.loss.detach().numpy(), weights * plain, rtol=1e-6)
    by_w, by_l = torch.autograd.grad(terms.loss.sum(), (out.rewards_chosen, out.rewards_rejected), retain_graph=True)
    torch.testing.assert_close(terms.slope_chosen, by_w, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(terms.slope_rejected, by_l, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("by", [*Measure, "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_extreme_margins_and_sizes_give_finite_weighted_losses(by, dtype):
    grid = [(m, d) for m in (-1e4, -100.0, 0.0, 100.0, 1e4) for d in (0.0, 1e-30, 1e-6, 1.0, 1e8)]
    r_w, r_l = (torch.tensor([half * m / 2 for m, _ in grid], dtype=dtype).requires_grad_() for half in (1, -1))
    sizes = torch.tensor([d for _, d in grid], dtype=dtype)
    h_l = torch.tensor([[1.0, 0.5]], dtype=dtype).expand(len(grid), 2)
    h_w = h_l + torch.stack([torch.zeros_like(sizes), sizes], dim=1)
    measure = Measure.l2 if by == "exact" else by
    loss = PairLoss(
        LossConfig(weighting="exact" if by == "exact" else "distance", distance=DistanceConfig(measure=measure))
    )
    loss.update(3.0)
    terms = loss(PairBatch(PairOutput(r_w, r_l, h_w, h_l), margin_gradient_norm=sizes))
    terms.loss.sum().backward()
    for values in (terms.loss, terms.weight, terms.denominator, terms.slope_chosen, r_w.grad, r_l.grad):
        assert torch.isfinite(values).all()


def output_with(chosen, rejected):
    zeros = torch.zeros(len(chosen), dtype=chosen.dtype)
    return PairOutput(zeros, zeros, zeros[:, None], zeros[:, None], None, chosen, rejected)


@pytest.mark.parametrize("term", ["sft", "dpo"])
@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(-1e4, 0), st.floats(-1e4, 0)), min_size=1, max_size=6),
    st.floats(0.01, 2),
    st.floats(0.01, 3),
)
def test_grms_terms_equal_a_50_digit_oracle_with_their_derivatives(term, pairs, beta, coefficient):
    chosen, rejected = (
        torch.tensor(side, dtype=torch.float64, requires_grad=True) for side in zip(*pairs, strict=True)
    )
    config = LossConfig(regularizer=RegularizerConfig(**{term: coefficient}), text_beta=beta)
    loss = PairLoss(config)(output_with(chosen, rejected)).loss
    gradients = torch.autograd.grad(loss.sum(), (chosen, rejected), allow_unused=True)
    mp = mpmath.mp
    mp.dps = 50
    for i, (w, l) in enumerate(pairs):  # noqa: E741
        x = mp.mpf(beta) * (mp.mpf(w) - (mp.mpf(l) if term == "dpo" else 0))
        value = mp.log(2) + mp.mpf(coefficient) * mp.log(1 + mp.exp(-x))
        slope = float(-mp.mpf(coefficient) * mp.mpf(beta) / (1 + mp.exp(x)))
        assert loss[i].item() == pytest.approx(float(value), rel=1e-9)
        assert gradients[0][i].item() == pytest.approx(slope, rel=1e-9, abs=1e-300)
        if term == "dpo":
            assert gradients[1][i].item() == pytest.approx(-slope, rel=1e-9, abs=1e-300)
    assert (gradients[1] is None) == (term == "sft")


@pytest.mark.parametrize("term", ["sft", "dpo"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grms_terms_stay_finite(term, dtype):
    ends = torch.tensor([-1e4, -1e4, 0.0, 0.0, -1e8], dtype=dtype)
    chosen, rejected = ends.clone().requires_grad_(), ends.flip(0).clone().requires_grad_()
    loss = PairLoss(LossConfig(regularizer=RegularizerConfig(**{term: 1.0})))(output_with(chosen, rejected)).loss
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert torch.isfinite(chosen.grad).all()


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**20))
def test_informs_term_is_the_divergence_of_torchs_distributions(rows, features, width, seed):
    from torch.distributions import Normal, kl_divergence

    torch.manual_seed(seed)
    bottleneck = Bottleneck(features, width).double()
    pooled = torch.randn(rows, features, dtype=torch.float64, requires_grad=True)
    bottleneck.eval()(pooled)
    mean, log_variance = bottleneck.encoder(pooled).chunk(2, dim=-1)
    unit = Normal(torch.zeros((), dtype=torch.float64), 1.0)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), unit).sum(-1)
    torch.testing.assert_close(bottleneck.kl, expected, rtol=1e-9, atol=1e-12)
    (ours,) = torch.autograd.grad(bottleneck.kl.sum(), pooled, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected.sum(), pooled)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("measure", [Measure.l2, Measure.cosine, Measure.whitened])
def test_pairs_at_no_distance_are_counted_and_the_run_goes_on(train_config, tmp_path, measure):
    # a decoder whose layers add nothing, and texts without an end token: the last word alone makes the embedding
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", 0)
    for name, p in model.network.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            p.data.zero_()
    tokenizer.chat_template = "{% for m in messages %}{{ ' ' + m['content'] }}{% endfor %}"
    save_reward_model(model, tokenizer, tmp_path / "base")
    ends = [("lion", "lion"), ("lion", "tiger")]
    rows = [
        {"prompt": f"say {i}", "chosen": f"yes the {ends[i % 2][0]}", "rejected": f"no a {ends[i % 2][1]}"}
        for i in range(64)
    ]
    config = train_config("distance", max_steps=8, logging_steps=1)
    config.backbone = BackboneConfig(name_or_path=str(tmp_path / "base"), freeze=True)
    config.loss = LossConfig(weighting="distance", distance=DistanceConfig(measure=measure))
    path = str(write_jsonl(tmp_path / "pairs.jsonl", rows))
    config.dataset = DatasetConfig(name="local", path=path, eval_path=path)
    metrics = train(config, tmp_path / "run")
    assert metrics["steps"] == 8
    history = [row for row in read_history(tmp_path / "run") if "train/degenerate_pairs" in row]
    assert sum(row["train/degenerate_pairs"] for row in history) == 8 * 16 / 2
    assert all(math.isfinite(row["train/loss"]) and math.isfinite(row["train/grad_norm"]) for row in history)
    assert not any("train/skipped_steps" in row for row in history)
    table = recorded_pairs(tmp_path / "run" / "diagnostics").to_pylist()
    at_once = [row for row in table if row["distance"] == 0]
    assert len(at_once) == len(table) / 2
    assert all(row["head_gradient_norm"] == 0 and math.isfinite(row["weight"]) for row in at_once)
    largest = max(row["distance"] for row in table)
    if measure is Measure.l2:  # mu at most, whatever the weight
        assert max(row["head_gradient_norm"] for row in table) <= largest
