"""Each part of the losses against values derived by hand, a 50-digit oracle, autograd, and extreme inputs."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.batches import random_batch
from rmbench.config import DistanceConfig, LossConfig, Measure, RegularizerConfig
from rmbench.diagnostics.measure import head_gradient_norm
from rmbench.errors import UserError
from rmbench.losses import MODEL_TERM, PAIRWISE, REGULARIZER, PairBatch, PairLoss
from rmbench.losses.weights import mahalanobis, whitener
from rmbench.modeling.layout import PairOutput

LN3, LN43 = math.log(3), math.log(4 / 3)  # sigma(ln 3) = 3/4, -log sigma(ln 3) = ln(4/3)
# loss -> (margin, rating margin, value, slope), worked out by hand for the default knobs
BY_HAND = {
    "bt": [(LN3, 0, LN43, -1 / 4), (0, 0, math.log(2), -1 / 2)],
    "bt_temperature": [(2 * LN3, 0, LN43, -1 / 8)],
    "bt_margin": [(2 * LN3, LN3, LN43, -1 / 4)],
    "bt_margin_out": [(LN3, 2, 2 * LN43, -1 / 2)],
    "bt_label_smoothing": [(LN3, 0, 0.9 * LN43 + 0.1 * math.log(4), -0.15)],
    "bt_robust": [(LN3, 0, (0.9 * LN43 - 0.1 * math.log(4)) / 0.8, -0.375)],
    "hinge": [(0.25, 0, 0.75, -1), (2, 0, 0, 0)],
    "exponential": [(LN3, 0, 1 / 3, -1 / 3), (-5, 0, 3 * math.e**3, -(math.e**3))],
    "focal": [(LN3, 0, LN43 / 16, -(1 / 4 + 1.5 * LN43) / 16)],
    "focal_internlm2": [(LN3, 0, LN43 / 4, -(1 / 4 + 1.5 * LN43) / 4), (-LN3, 0, math.log(4), -3 / 4)],
    "squared_margin": [(3, 0, 4, 4)],
    "reward_norm": [(0.5, 0, math.log1p(math.exp(-0.5)), -1 / (1 + math.exp(0.5)))],
}


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def output(rewards_chosen, rewards_rejected, embeddings_chosen, embeddings_rejected):
    return PairOutput(*map(tensor, (rewards_chosen, rewards_rejected, embeddings_chosen, embeddings_rejected)))


def test_every_pairwise_loss_has_a_value_by_hand():
    assert BY_HAND.keys() == PAIRWISE.keys()
    for name, rows in BY_HAND.items():
        for margin, rating, value, slope in rows:
            arguments = (tensor([margin]), tensor([rating]), LossConfig())
            assert PAIRWISE[name].value(*arguments).item() == pytest.approx(value, abs=1e-14), name
            assert PAIRWISE[name].slope(*arguments).item() == pytest.approx(slope, abs=1e-14), name


def test_reward_norm_by_hand():
    # r = (3, 4): length 5, x = -1/5; dx/dr_w = r_l (r_w + r_l) / 5^3 = 28/125, dx/dr_l = -r_w (r_w + r_l) / 5^3
    terms = PairLoss(LossConfig(pairwise="reward_norm"))(output([3.0], [4.0], [[1.0]], [[0.0]]))
    slope = -1 / (1 + math.exp(-0.2))
    assert terms.loss.item() == pytest.approx(math.log1p(math.exp(0.2)), rel=1e-6)
    assert terms.slope_chosen.item() == pytest.approx(slope * 28 / 125, rel=1e-6)
    assert terms.slope_rejected.item() == pytest.approx(-slope * 21 / 125, rel=1e-6)


def oracle(name, x, m, config):
    """The published formulas, in 50 digits."""
    mp = mpmath.mp
    mp.dps = 50
    x, m = mp.mpf(x), mp.mpf(m)
    sigma = lambda v: 1 / (1 + mp.exp(-v))  # noqa: E731
    a, g, t = mp.mpf(config.smoothing), mp.mpf(config.gamma), mp.mpf(config.target)
    return {
        "bt": lambda: -mp.log(sigma(x)),
        "bt_temperature": lambda: -mp.log(sigma(x / mp.mpf(config.temperature))),
        "bt_margin": lambda: -mp.log(sigma(x - m)),
        "bt_margin_out": lambda: -m * mp.log(sigma(x)),
        "bt_label_smoothing": lambda: -(1 - a) * mp.log(sigma(x)) - a * mp.log(sigma(-x)),
        "bt_robust": lambda: (-(1 - a) * mp.log(sigma(x)) + a * mp.log(sigma(-x))) / (1 - 2 * a),
        "hinge": lambda: max(mp.mpf(0), t - x),
        "exponential": lambda: mp.exp(-x) if x >= -3 else mp.exp(3) * (-2 - x),
        "focal": lambda: -((1 - sigma(x)) ** g) * mp.log(sigma(x)),
        "focal_internlm2": lambda: -((1 - 2 * max(mp.mpf(0), sigma(x) - mp.mpf(1) / 2)) ** g) * mp.log(sigma(x)),
        "squared_margin": lambda: (x - t) ** 2,
        "reward_norm": lambda: -mp.log(sigma(x)),
    }[name]()


@pytest.mark.parametrize("name", PAIRWISE)
@settings(max_examples=30)
@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=8),
    st.floats(0, 5),
    st.floats(0, 4),
    st.floats(0, 0.49),
    st.floats(0.1, 5),
)
def test_pairwise_values_equal_a_50_digit_oracle(name, margins, rating, gamma, smoothing, target):
    config = LossConfig(gamma=gamma, smoothing=smoothing, target=target, temperature=target)
    x = tensor(margins)
    values = PAIRWISE[name].value(x, torch.full_like(x, rating), config)
    assert values.shape == x.shape
    for value, margin in zip(values.tolist(), margins, strict=True):
        assert value == pytest.approx(float(oracle(name, margin, rating, config)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", PAIRWISE)
@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(0, 2**20), st.floats(0, 4), st.floats(0, 0.49))
def test_declared_slopes_equal_autograd(name, pairs, seed, gamma, smoothing):
    generator = torch.Generator().manual_seed(seed)
    x = (5 * torch.randn(pairs, generator=generator, dtype=torch.float64)).requires_grad_()
    rating = torch.rand(pairs, generator=generator, dtype=torch.float64)
    config = LossConfig(gamma=gamma, smoothing=smoothing)
    (expected,) = torch.autograd.grad(PAIRWISE[name].value(x, rating, config).sum(), x)
    torch.testing.assert_close(PAIRWISE[name].slope(x.detach(), rating, config), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("margin", [-1e4, -30.0, -3.5, -3.0, -2.9, 0.0, 3.0, 14.0, 40.0, 80.0])
def test_exponential_keeps_its_digits_in_float32(margin):
    # at d = 14 the derivative is -8.3e-7, beside a tangent of slope 20
    def value_and_gradient(dtype):
        x = tensor([margin], dtype).requires_grad_()
        value = PAIRWISE["exponential"].value(x, torch.zeros_like(x), LossConfig())
        slope = PAIRWISE["exponential"].slope(x.detach(), torch.zeros_like(x), LossConfig())
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.item(), gradient.item(), slope.item()

    assert value_and_gradient(torch.float32) == pytest.approx(value_and_gradient(torch.float64), rel=1e-5)


REGULARIZERS_BY_HAND = {  # (r_w, r_l, mean) -> value, derivatives
    "centring": ((2, -0.5, 0), 2.25, (3, 3)),
    "bsr": ((2, -0.5, 0.75), 0.75**2, (0.75, 0.75)),  # one pair is the batch: M = (2 - 0.5) / 2
    "l2": ((2, -0.5, 0), 4.25, (4, -1)),
    "barrier": ((3, 0, 0), -math.log(1 - 9 / 25), (6 / 16, 0)),
    "pos_reg": ((LN3, 7, LN3), LN43, (-1 / 4, 0)),
    "absolute": ((LN3, LN3, 0), LN43 + math.log(4), (-1 / 4, 3 / 4)),
}


def test_every_regularizer_has_a_value_by_hand_and_a_key():
    keys = vars(RegularizerConfig()).keys() - MODEL_TERM.keys() - {"own", "own_coefficient"}
    assert REGULARIZERS_BY_HAND.keys() == REGULARIZER.keys() == keys
    for name, ((chosen, rejected, mean), value, slopes) in REGULARIZERS_BY_HAND.items():
        arguments = (tensor([chosen]), tensor([rejected]), tensor(mean))
        assert REGULARIZER[name].value(*arguments).item() == pytest.approx(value, abs=1e-14), name
        assert [s.item() for s in REGULARIZER[name].slopes(*arguments)] == pytest.approx(slopes, abs=1e-14), name


def test_the_barrier_goes_on_linearly():
    # at 4.9: -log(1 - 0.98^2), slope 9.8 / 0.99
    value = REGULARIZER["barrier"].value(tensor([6.9]), tensor([0.0]), tensor(0.0)).item()
    assert value == pytest.approx(-math.log(1 - 0.98**2) + 2 * 9.8 / 0.99)


@pytest.mark.parametrize("name", REGULARIZER)
@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**20), st.floats(0.1, 5))
def test_regularizers_equal_their_formulas_of_the_whole_batch(name, pairs, hidden, seed, scale):
    batch, _ = random_batch(pairs, hidden, seed, scale)
    r_w, r_l = (r.detach().requires_grad_() for r in (batch.output.rewards_chosen, batch.output.rewards_rejected))
    loss = PairLoss(LossConfig(pairwise="squared_margin", regularizer=RegularizerConfig(**{name: 0.3})))
    terms = loss(PairOutput(r_w, r_l, batch.output.embeddings_chosen, batch.output.embeddings_rejected))

    def barrier(r):
        inside = r.abs() < 4.9
        edge, slope = -math.log(1 - 0.98**2), 9.8 / 0.99
        return torch.where(inside, -torch.log(1 - torch.where(inside, r / 5, 0) ** 2), edge + (r.abs() - 4.9) * slope)

    sigma = torch.sigmoid
    whole = {
        "centring": lambda: ((r_w + r_l) ** 2).mean(),
        "bsr": lambda: torch.cat([r_w, r_l]).mean() ** 2,
        "l2": lambda: (r_w**2 + r_l**2).mean(),
        "barrier": lambda: (barrier(r_w) + barrier(r_l)).mean(),
        "pos_reg": lambda: -torch.log(sigma(r_w.mean())),
        "absolute": lambda: (-torch.log(sigma(r_w)) - torch.log(sigma(-r_l))).mean(),
    }[name]()
    expected = ((r_w - r_l - 1) ** 2).mean() + 0.3 * whole
    assert terms.loss.mean().item() == pytest.approx(expected.item(), rel=1e-9)
    for ours, r in ((terms.slope_chosen, r_w), (terms.slope_rejected, r_l)):
        (by_batch,) = torch.autograd.grad(expected, r, retain_graph=True)
        torch.testing.assert_close(ours / pairs, by_batch, rtol=1e-8, atol=1e-10)
        (declared,) = torch.autograd.grad(terms.loss.sum(), r, retain_graph=True)
        torch.testing.assert_close(ours, declared, rtol=1e-9, atol=1e-12)


def test_normbt_by_hand():
    # distances 5 and 10, mu 7.5: weights 1.5 and 0.75; margin ln 3 and 0
    loss = PairLoss(LossConfig(weighting="distance", distance=DistanceConfig(eps=1e-12)))
    loss.update(7.5)
    terms = loss(output([LN3, 1.0], [0.0, 1.0], [[3.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [6.0, 8.0]]))
    assert terms.distance.tolist() == pytest.approx([5.0, 10.0])
    assert terms.weight.tolist() == pytest.approx([1.5, 0.75])
    assert terms.loss.tolist() == pytest.approx([1.5 * LN43, 0.75 * math.log(2)])
    assert terms.loss_slope.tolist() == pytest.approx([1.5 * 0.25, 0.75 * 0.5])
    assert terms.prediction_error.tolist() == pytest.approx([0.25, 0.5])


FAR = output([LN3, 1.0], [0.0, 1.0], [[3.0, 4.0], [0.0, 1.0]], [[4.0, 3.0], [0.0, -1.0]])


@pytest.mark.parametrize(
    ("changes", "sizes", "weights"),
    [
        # |h_w - h_l| = sqrt 2 and 2, mean (2 + sqrt 2) / 2
        ({"exponent": 0.0}, [2**0.5, 2], [1, 1]),
        ({"exponent": 2.0}, [2**0.5, 2], [((2 + 2**0.5) / 2) ** 2 / 2, ((2 + 2**0.5) / 2) ** 2 / 4]),
        ({"normalize": True}, [2**0.5, 2], [2 / (1 + 2**-0.5), 2 * 2**-0.5 / (1 + 2**-0.5)]),
        ({"max_weight": 1.0}, [2**0.5, 2], [1, (2 + 2**0.5) / 4]),
        # cos = 24/25 and -1
        ({"measure": Measure.cosine}, [1 / 25, 2], [1.02 * 25, 0.51]),
        # the mean of the four embeddings is (7/4, 7/4): seen from there (5, 9)/4, (9, 5)/4; (-7, -3)/4, (-7, -11)/4
        (
            {"measure": Measure.centred_cosine},
            [1 - 90 / 106, 1 - 82 / (58 * 170) ** 0.5],
            None,
        ),
    ],
)
def test_variants_of_the_weight_by_hand(changes, sizes, weights):
    distance = DistanceConfig(**{"eps": 1e-12, **changes})
    terms = PairLoss(LossConfig(weighting="distance", distance=distance))(FAR)
    assert terms.denominator.tolist() == pytest.approx(sizes)
    assert terms.distance.tolist() == pytest.approx([2**0.5, 2])
    weights = [sum(sizes) / 2 / size for size in sizes] if weights is None else weights
    assert terms.weight.tolist() == pytest.approx(weights, rel=1e-9)


def test_the_limit_is_one_with_weights_of_mean_one_too():
    # distances 1, 1, 1, 100, mu 10: weights 10, 10, 10, 0.1, at most 1.2 before and after their mean, 0.925
    def weights(dtype, **changes):
        h_w = tensor([[1.0], [1.0], [1.0], [100.0]], dtype)
        zeros = torch.zeros(4, dtype=dtype)
        loss = PairLoss(LossConfig(weighting="distance", distance=DistanceConfig(eps=1e-12, normalize=True, **changes)))
        loss.update(10.0)
        return loss(PairOutput(zeros, zeros, h_w, torch.zeros_like(h_w))).weight.tolist()

    expected = [1.2, 1.2, 1.2, 0.1 / 0.925]
    assert weights(torch.float64, max_weight=1.2) == pytest.approx(expected, rel=1e-9)
    assert weights(torch.float32, max_weight=1.2) == pytest.approx(expected, rel=1e-6)
    assert weights(torch.float64, max_weight=1e3) == weights(torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_weight", [None, 0.5, 2.0])
def test_weights_of_mean_one_of_a_batch_at_no_distance(dtype, max_weight):
    distance = DistanceConfig(normalize=True, max_weight=max_weight)
    loss = PairLoss(LossConfig(weighting="distance", distance=distance))
    same = torch.ones(4, 2, dtype=dtype)
    batch = PairBatch(PairOutput(torch.zeros(4, dtype=dtype), torch.zeros(4, dtype=dtype), same, same))
    for mu in (0.0, 0.0):
        statistics = loss.statistics(batch)
        terms = loss(batch, statistics)
        assert terms.weight.tolist() == [min(1.0, max_weight or 1.0)] * 4
        loss.update(mu, statistics)
    # mu is still 0 where the first distances come: 1 and 3, whose weights are in the ratio 3 : 1
    apart = PairOutput(same[:2, 0], same[:2, 0], tensor([[1.0], [3.0]], dtype), tensor([[0.0], [0.0]], dtype))
    expected = [1.5, 0.5] if max_weight is None else None
    assert expected is None or loss(apart).weight.tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(loss(apart).loss).all()


def test_mahalanobis_distance_by_hand():
    # variances 4 and 1 on the axes: (2, 1) apart is sqrt(2^2/4 + 1^2/1)
    factor = whitener(torch.diag(tensor([4.0, 1.0])), shrinkage=1e-12)
    pair = output([0.0], [0.0], [[2.0, 1.0]], [[0.0, 0.0]])
    assert mahalanobis(pair, factor).item() == pytest.approx(2**0.5)
    # shrunk all the way: the mean variance 2.5 in every direction
    factor = whitener(torch.diag(tensor([4.0, 1.0])), shrinkage=1.0)
    assert mahalanobis(pair, factor).item() == pytest.approx((5 / 2.5) ** 0.5)


@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 2**20))
def test_whitened_distances_equal_those_by_numpys_covariance(pairs, hidden, seed):
    import numpy as np

    batch, _ = random_batch(pairs, hidden, seed)
    config = DistanceConfig(measure=Measure.whitened, shrinkage=0.2)
    sizes = PairLoss(LossConfig(weighting="distance", distance=config))(batch).denominator
    h_w, h_l = batch.output.embeddings_chosen.numpy(), batch.output.embeddings_rejected.numpy()
    covariance = np.cov(np.concatenate([h_w, h_l]).T, bias=True).reshape(hidden, hidden)
    shrunk = 0.8 * covariance + 0.2 * np.trace(covariance) / hidden * np.eye(hidden)
    expected = np.sqrt(np.einsum("ph,hk,pk->p", h_w - h_l, np.linalg.inv(shrunk), h_w - h_l))
    assert sizes.numpy() == pytest.approx(expected, rel=1e-8)


def test_mu_and_the_covariance_start_at_the_first_batch_and_move_after_the_step():
    distance = DistanceConfig(measure=Measure.whitened, beta=0.9)
    loss = PairLoss(LossConfig(weighting="distance", distance=distance))
    assert loss.needs_global_batch
    first, second = (random_batch(5, 3, seed)[0] for seed in (0, 1))
    statistics = loss.statistics(first)
    loss.update(2.0, statistics)
    assert loss.mu == 2.0
    assert torch.equal(loss.state_dict()["covariance"], statistics.of_weight["covariance"])
    loss.update(4.0, loss.statistics(second))
    assert loss.mu == pytest.approx(0.9 * 2.0 + 0.1 * 4.0)
    expected = 0.9 * statistics.of_weight["covariance"] + 0.1 * loss.statistics(second).of_weight["covariance"]
    torch.testing.assert_close(loss.state_dict()["covariance"], expected)
    again = PairLoss(loss.config)
    again.load_state_dict(loss.state_dict())
    assert again.mu == loss.mu
    assert torch.equal(again.state_dict()["covariance"], loss.state_dict()["covariance"])


def test_no_first_pass_where_the_pair_itself_is_enough():
    for config in (LossConfig(), LossConfig(weighting="distance"), LossConfig(pairwise="focal")):
        loss = PairLoss(config)
        loss.update(1.0)
        assert not loss.needs_global_batch
    for distance in ({"ema": False}, {"normalize": True}, {"measure": Measure.centred_cosine}):
        loss = PairLoss(LossConfig(weighting="distance", distance=DistanceConfig(**distance)))
        loss.update(1.0)
        assert loss.needs_global_batch


@pytest.mark.parametrize("weighting", ["none", "distance"])
@pytest.mark.parametrize("name", PAIRWISE)
@settings(max_examples=20)
@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(0, 2**20),
    st.sampled_from(["none", "centring", "absolute"]),
    st.sampled_from(list(Measure)),
)
def test_derivatives_and_head_gradient_equal_autograd(name, weighting, pairs, hidden, seed, regularizer, measure):
    batch, head = random_batch(pairs, hidden, seed)
    coefficients = {} if regularizer == "none" else {regularizer: 0.3}
    config = LossConfig(
        pairwise=name,
        weighting=weighting,
        distance=DistanceConfig(measure=measure),
        regularizer=RegularizerConfig(**coefficients),
    )
    loss = PairLoss(config)
    terms = loss(batch)
    out = batch.output
    by_w, by_l = torch.autograd.grad(terms.loss.sum(), (out.rewards_chosen, out.rewards_rejected), retain_graph=True)
    torch.testing.assert_close(terms.slope_chosen, by_w, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(terms.slope_rejected, by_l, rtol=1e-9, atol=1e-12)
    norms = head_gradient_norm(out, terms)
    for i in range(pairs):
        (gradient,) = torch.autograd.grad(terms.loss[i], head, retain_graph=True)
        assert norms[i].item() == pytest.approx(gradient.norm().item(), rel=1e-6, abs=1e-12)
        if regularizer == "none" and name != "reward_norm":  # which is no function of the margin alone
            by_slope = (terms.loss_slope * terms.distance)[i].item()
            assert gradient.norm().item() == pytest.approx(by_slope, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", [*PAIRWISE, *REGULARIZER])
def test_extreme_inputs_stay_finite_and_the_head_gradient_bounded(name, dtype):
    margins, distances = [-1e4, -100.0, 0.0, 100.0, 1e4], [0.0, 1e-30, 1e-6, 1.0, 1e8]
    grid = [(m, d) for m in margins for d in distances]
    r_w, r_l = (tensor([half * m / 2 for m, _ in grid], dtype).requires_grad_() for half in (1, -1))
    h_w = tensor([[d, 0.0] for _, d in grid], dtype)
    kind = {"pairwise": name} if name in PAIRWISE else {"regularizer": RegularizerConfig(**{name: 0.1})}
    loss = PairLoss(LossConfig(weighting="distance", **kind))
    loss.update(3.0)
    terms = loss(PairBatch(PairOutput(r_w, r_l, h_w, torch.zeros_like(h_w)), torch.ones(len(grid))))
    terms.loss.sum().backward()
    for values in (terms.loss, terms.slope_chosen, terms.slope_rejected, r_w.grad, r_l.grad):
        assert torch.isfinite(values).all()
        assert terms.loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    if name in PAIRWISE:
        unweighted = (terms.loss_slope / terms.weight).abs()
        assert (terms.loss_slope * terms.distance <= 3.0 * unweighted * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (LossConfig(pairwise="bt_margin"), "rating_margin"),
        (LossConfig(weighting="exact"), "gradient_norm"),
        (LossConfig(regularizer=RegularizerConfig(kl=1.0)), "bottleneck"),
        (LossConfig(regularizer=RegularizerConfig(dpo=1.0)), "language head"),
    ],
)
def test_a_batch_that_lacks_what_the_loss_reads_is_refused(config, says):
    with pytest.raises(UserError, match=says):
        PairLoss(config)(FAR)


def test_embeddings_that_are_not_finite_make_a_loss_that_is_not():
    nan = torch.full((2, 3), torch.nan)
    distance = DistanceConfig(measure=Measure.whitened)
    terms = PairLoss(LossConfig(weighting="distance", distance=distance))(PairOutput(nan[:, 0], nan[:, 0], nan, nan))
    assert not torch.isfinite(terms.loss).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("measure", Measure)
def test_every_measure_is_finite_for_vectors_of_any_length(measure, dtype):
    lengths = tensor([0.0, 1e-30, 1e-6, 1.0, 1e8], dtype)
    h_w = torch.stack([lengths, torch.zeros_like(lengths)], dim=1)
    for h_l in (torch.zeros_like(h_w), h_w, h_w.flip(1), -h_w):
        zeros = torch.zeros(len(h_w), dtype=dtype)
        distance = DistanceConfig(measure=measure, exponent=0.5)
        terms = PairLoss(LossConfig(weighting="distance", distance=distance))(PairOutput(zeros, zeros, h_w, h_l))
        assert torch.isfinite(terms.denominator).all()
        assert torch.isfinite(terms.weight).all()
        assert (terms.denominator >= 0).all()
        if measure is Measure.cosine:
            assert (terms.denominator <= 2 + 1e-6).all()


def test_pairs_that_hardly_differ_are_counted():
    terms = PairLoss(LossConfig())(output([1.0] * 3, [0.0] * 3, [[1.0], [1.0], [1.0]], [[1.0], [1.0 + 1e-5], [1.1]]))
    assert terms.degenerate.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"pairwise": "btt"}, r"loss\.pairwise=btt.*Did you mean loss\.pairwise=bt\?.*There are: bt"),
        (
            {"weighting": "distanc"},
            r"=distanc: no such name\. Did you mean loss\.weighting=distance\? There are: none, distance, l2.*exact",
        ),
    ],
)
def test_an_unknown_name_lists_those_there_are(config, says):
    with pytest.raises(UserError, match=says):
        PairLoss(LossConfig(**config))
