"""Intervals, paired tests and calibration, against closed forms, slow loops and values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from rmbench.statistics.calibration import binned_accuracy, calibration, length_bias
from rmbench.statistics.cells import Observation, bootstrap, by_size, cell_means, estimate, mean_of
from rmbench.statistics.paired import exact_p, holm, mcnemar


def wins(cell, n, won, cluster=None):
    return [Observation(cell, cluster(i) if cluster else f"{cell} {i}", float(i < won)) for i in range(n)]


def test_the_interval_of_one_mean_is_that_of_the_normal_approximation():
    n, p = 1000, 0.8
    low, high = bootstrap(wins("a", n, int(n * p)), {"score": {"a": 1.0}})["score"]
    half = norm.ppf(0.975) * math.sqrt(p * (1 - p) / n)
    assert low == pytest.approx(p - half, abs=0.004)
    assert high == pytest.approx(p + half, abs=0.004)


def test_the_interval_goes_through_the_weighting():
    # the variance of 0.9 a + 0.1 b, a with 50 and b with 2000 observations; strata are drawn apart
    observations = wins("a", 50, 25) + wins("b", 2000, 1000)
    low, high = bootstrap(observations, {"score": {"a": 0.9, "b": 0.1}}, replicates=4000)["score"]
    sd = math.sqrt(0.81 * 0.25 / 50 + 0.01 * 0.25 / 2000)
    assert (high - low) / 2 == pytest.approx(norm.ppf(0.975) * sd, rel=0.06)


def test_observations_of_one_cluster_are_drawn_together():
    # ten copies of each of 40 outcomes tell no more than the 40
    copies = [Observation("a", f"{i % 40}", float(i % 40 < 20)) for i in range(400)]
    low, high = bootstrap(copies, {"score": {"a": 1.0}}, replicates=4000)["score"]
    assert (high - low) / 2 == pytest.approx(norm.ppf(0.975) * math.sqrt(0.25 / 40), rel=0.08)


def test_clusters_across_cells_carry_their_correlation():
    # the same outcomes in two cells: the mean of both varies as one does; their difference does not vary at all
    observations = wins("a", 100, 50, str) + wins("b", 100, 50, str)
    intervals = bootstrap(observations, {"mean": {"a": 0.5, "b": 0.5}, "gap": {"a": 1.0, "b": -1.0}}, replicates=4000)
    low, high = intervals["mean"]
    assert (high - low) / 2 == pytest.approx(norm.ppf(0.975) * math.sqrt(0.25 / 100), rel=0.08)
    assert intervals["gap"] == (0.0, 0.0)


def test_bootstrap_equals_a_loop_over_drawn_items():
    observations = wins("a", 30, 12) + wins("b", 20, 15)
    formula = {"score": mean_of([{"a": 1.0}, {"b": 1.0}])}
    low, high = bootstrap(observations, formula, replicates=5000, seed=1)["score"]
    rng = np.random.default_rng(2)
    drawn = []
    for _ in range(5000):
        parts = [[o.value for o in observations if o.cell == cell] for cell in "ab"]
        drawn.append(np.mean([rng.choice(part, len(part)).mean() for part in parts]))
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)


def test_a_cell_that_a_replicate_misses_does_not_spoil_the_other_numbers():
    # clusters 0 to 4 link the cells; b has one observation, which a third of the replicates miss
    observations = [*wins("a", 5, 3, str), Observation("b", "4", 1.0)]
    intervals = bootstrap(observations, {"a": {"a": 1.0}, "b": {"b": 1.0}})
    assert all(map(math.isfinite, intervals["a"]))
    assert intervals["b"] == (1.0, 1.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), min_size=1))
def test_weights_by_size_give_the_mean_over_all(values):
    observations = [Observation(cell, str(i), value) for i, (cell, value) in enumerate(values)]
    counts = {cell: sum(o.cell == cell for o in observations) for cell in {o.cell for o in observations}}
    mean = estimate(cell_means(observations), by_size(counts))
    assert mean == pytest.approx(np.mean([value for _, value in values]))


def test_mcnemar_is_the_binomial_test_of_discordant_items():
    outcomes = {str(i): pair for i, pair in enumerate([(1.0, 0.0)] * 2 + [(0.0, 1.0)] * 9 + [(1.0, 1.0)] * 50)}
    tested = mcnemar(outcomes)
    by_hand = 2 * sum(math.comb(11, k) for k in range(3)) / 2**11
    assert (tested.first, tested.second) == (2, 9)
    assert tested.p_value == pytest.approx(by_hand)
    assert exact_p(0, 0) == 1.0


@given(st.dictionaries(st.text(), st.floats(0, 1), max_size=8))
def test_holm_is_between_the_plain_and_the_bonferroni_value_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    for name, p in p_values.items():
        assert p <= corrected[name] <= min(1.0, p * len(p_values)) + 1e-12
    ordered = sorted(p_values, key=lambda name: p_values[name])
    assert [corrected[name] for name in ordered] == sorted(corrected.values())


def test_calibration_by_hand():
    margin = np.array([math.log(3), math.log(3), math.log(3), -math.log(3)])  # confidence 0.75, right 3 of 4
    assert calibration(margin)["ece"] == pytest.approx(0.0)
    assert calibration(margin)["brier"] == pytest.approx((3 * 0.25**2 + 0.75**2) / 4)
    assert calibration(margin)["log_loss"] == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)
    assert calibration(np.array([50.0, -50.0]))["ece"] == pytest.approx(0.5)  # sure of both, right of one
    assert calibration(np.zeros(3))["ece"] == 0.0


def test_bins_hold_everything_once_and_each_its_own_accuracy():
    by = np.arange(100.0)
    bins = binned_accuracy(np.where(by < 20, -1.0, 1.0), by)
    assert [b["n"] for b in bins] == [20] * 5
    assert [b["accuracy"] for b in bins] == [0, 1, 1, 1, 1]
    assert bins[0]["low"] == 0
    assert bins[-1]["high"] == 99
    same = binned_accuracy(np.ones(7), np.full(7, 2.0))
    assert [(b["n"], b["accuracy"]) for b in same] == [(7, 1.0)]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_bins_of_repeated_values_hold_everything_once(values):
    assert sum(b["n"] for b in binned_accuracy(np.ones(len(values)), np.array(values, float))) == len(values)


def test_length_bias_tells_who_wins_by_length():
    chosen, rejected = np.array([10.0, 20, 5, 5]), np.array([5.0, 5, 10, 20])
    bias = length_bias(chosen - rejected, chosen, rejected)
    assert bias["chosen_longer"]["accuracy"] == 1
    assert bias["chosen_shorter"]["accuracy"] == 0
    assert bias["same_length"] == {"n": 0, "accuracy": None, "interval": None}
    assert bias["rank_correlation"] == pytest.approx(1.0)
    assert length_bias(np.ones(3), np.ones(3), np.ones(3))["rank_correlation"] is None
