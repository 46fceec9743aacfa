"""Each part of the losses against a value derived by hand, autograd, and extreme inputs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmbench.config import DistanceConfig, LossConfig, RegularizerConfig
from rmbench.diagnostics.records import head_gradient_norm
from rmbench.errors import UserError
from rmbench.losses import PAIRWISE, REGULARIZER, PairLoss
from rmbench.modeling.layout import PairOutput


def output(rewards_chosen, rewards_rejected, embeddings_chosen, embeddings_rejected):
    return PairOutput(
        *(torch.tensor(v, dtype=torch.float64) for v in (rewards_chosen, rewards_rejected)),
        *(torch.tensor(v, dtype=torch.float64) for v in (embeddings_chosen, embeddings_rejected)),
    )


def test_bt_by_hand():
    # margin = ln 3: sigma = 3/4, loss = ln(4/3), slope = -(1 - 3/4)
    margin = torch.tensor([math.log(3.0), 0.0], dtype=torch.float64)
    assert PAIRWISE["bt"].value(margin).tolist() == pytest.approx([math.log(4 / 3), math.log(2)], abs=1e-15)
    assert PAIRWISE["bt"].slope(margin).tolist() == pytest.approx([-0.25, -0.5], abs=1e-15)


def test_normbt_by_hand():
    # distances 5 and 10, mu 7.5: weights 1.5 and 0.75; margin ln 3 and 0
    config = LossConfig(weighting="distance", distance=DistanceConfig(eps=1e-12))
    loss = PairLoss(config)
    loss.update(7.5)
    terms = loss(output([math.log(3), 1.0], [0.0, 1.0], [[3.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [6.0, 8.0]]))
    assert terms.distance.tolist() == pytest.approx([5.0, 10.0])
    assert terms.weight.tolist() == pytest.approx([1.5, 0.75])
    assert terms.loss.tolist() == pytest.approx([1.5 * math.log(4 / 3), 0.75 * math.log(2)])
    assert terms.loss_slope.tolist() == pytest.approx([1.5 * 0.25, 0.75 * 0.5])
    assert terms.prediction_error.tolist() == pytest.approx([0.25, 0.5])


def test_mu_starts_at_the_first_mean_and_moves_after_the_step():
    loss = PairLoss(LossConfig(weighting="distance"))
    assert loss.needs_mu
    loss.update(2.0)
    assert loss.mu == 2.0
    loss.update(4.0)
    assert loss.mu == pytest.approx(0.9 * 2.0 + 0.1 * 4.0)


def test_max_weight_limits_close_pairs():
    loss = PairLoss(LossConfig(weighting="distance", distance=DistanceConfig(max_weight=5.0)))
    loss.update(1.0)
    terms = loss(output([0.0], [0.0], [[1e-9]], [[0.0]]))
    assert terms.weight.tolist() == [5.0]


def test_centring_by_hand():
    value = REGULARIZER["centring"].value(torch.tensor([2.0]), torch.tensor([-0.5]))
    assert value.tolist() == [2.25]
    assert [s.tolist() for s in REGULARIZER["centring"].slopes(torch.tensor([2.0]), torch.tensor([-0.5]))] == [
        [3.0]
    ] * 2


@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(0, 2**20),
    st.sampled_from(["none", "distance"]),
    st.sampled_from([0.0, 0.3]),
)
def test_derivatives_and_head_gradient_equal_autograd(pairs, hidden, seed, weighting, centring):
    generator = torch.Generator().manual_seed(seed)
    h_w, h_l = (torch.randn(pairs, hidden, generator=generator, dtype=torch.float64) for _ in range(2))
    head = torch.randn(hidden, generator=generator, dtype=torch.float64, requires_grad=True)
    loss = PairLoss(LossConfig(weighting=weighting, regularizer=RegularizerConfig(centring=centring)))
    loss.update(1.7)
    r_w, r_l = h_w @ head, h_l @ head
    out = PairOutput(r_w, r_l, h_w, h_l)
    terms = loss(out)
    by_w, by_l = torch.autograd.grad(terms.loss.sum(), (r_w, r_l), retain_graph=True)
    torch.testing.assert_close(terms.slope_chosen, by_w)
    torch.testing.assert_close(terms.slope_rejected, by_l)
    norms = head_gradient_norm(out, terms)
    for i in range(pairs):
        (gradient,) = torch.autograd.grad(terms.loss[i], head, retain_graph=True)
        assert norms[i].item() == pytest.approx(gradient.norm().item(), rel=1e-9, abs=1e-12)
    constant = terms.weight * (terms.distance + 1e-6)
    expected = torch.full_like(constant, 1.7) if weighting == "distance" else terms.distance + 1e-6
    torch.testing.assert_close(constant, expected)


@pytest.mark.parametrize("margin", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("distance", [0.0, 1e-30, 1e8])
def test_extreme_inputs_stay_finite_and_the_head_gradient_bounded(margin, distance):
    loss = PairLoss(LossConfig(weighting="distance"))
    loss.update(3.0)
    terms = loss(output([margin], [0.0], [[distance]], [[0.0]]))
    assert torch.isfinite(terms.loss).all()
    assert (terms.loss_slope * terms.distance).item() <= 3.0 + 1e-9


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(UserError, match=r"loss\.pairwise=btt.*Did you mean loss\.pairwise=bt\?.*There are: bt"):
        PairLoss(LossConfig(pairwise="btt"))
