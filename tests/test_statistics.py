"""Weights, paired tests and calibration, against closed forms, slow loops and values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbench.statistics.calibration import binned_accuracy, calibration, length_bias
from rmbench.statistics.cells import Observation, by_size, cell_means, estimate
from rmbench.statistics.paired import exact_p, holm, mcnemar


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
