"""Intervals over seeds and items: by hand, against the textbook's simple cases, and by simulation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rmbench.statistics.seeds import difference_over_seeds


def compare(values, cells=None, clusters=None, weights=None):
    n = np.asarray(values).shape[1]
    cells = cells or ["all"] * n
    clusters = clusters or [str(i) for i in range(n)]
    return difference_over_seeds(np.asarray(values, float), cells, clusters, weights or dict.fromkeys(set(cells), 1.0))


def test_components_by_hand():
    # Two seeds, two items: mean 3; item means 2 and 4; seed means 2 and 4; no interaction.
    found = compare([[1, 3], [3, 5]])
    assert found.value == 3
    assert found.seed_variance == pytest.approx(2)  # of 2 and 4
    assert found.item_variance == pytest.approx(2 / 2)  # variance of 2 and 4, over two items
    assert found.standard_error == pytest.approx((2 / 2 + 1) ** 0.5)
    low, high = found.interval()
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 1) * 2**0.5)  # both parts have one degree of freedom


def test_the_quantile_is_the_mean_of_both_parts_by_hand():
    # Item means -1, 0, 1, 0 (variance 2/3, over four items 1/6), seeds at 1, 2, 3 (variance 1, over three seeds 1/3).
    found = compare([[s + i for i in (-1, 0, 1, 0)] for s in (1, 2, 3)])
    quantile = (stats.t.ppf(0.975, 2) / 3 + stats.t.ppf(0.975, 3) / 6) / 0.5
    low, high = found.interval()
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(quantile * 0.5**0.5)


@given(st.integers(2, 6), st.integers(3, 30), st.integers(0, 1000), st.floats(0.01, 3))
def test_the_p_value_is_where_the_interval_ends_at_zero(seeds, items, seed, shift):
    rng = np.random.default_rng(seed)
    found = compare(
        rng.normal(shift, 0.3, (seeds, 1)) + rng.normal(0, 1, (1, items)) + rng.normal(0, 1, (seeds, items))
    )
    low, high = found.interval(1 - found.p_value)
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-6 * max(1, abs(found.value)))


def test_a_difference_beyond_doubt_has_a_p_value_near_zero():
    found = compare(np.random.default_rng(0).normal(50, 0.001, (10, 5000)))
    assert 0 <= found.p_value < 1e-12


def test_one_seed_is_the_t_interval_over_items():
    values = np.random.default_rng(0).normal(0.1, 1, 50)
    found = compare([values])
    expected = stats.ttest_1samp(values, 0)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval()))
    with pytest.raises(ValueError, match="one seed"):
        found.seeds_for(0.01)


def test_items_that_all_say_the_same_leave_the_t_interval_over_seeds():
    seeds = np.array([0.1, 0.3, 0.2, 0.6])
    found = compare(np.repeat(seeds[:, None], 40, axis=1))
    expected = stats.ttest_1samp(seeds, 0)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval()))


def test_nothing_differs():
    found = compare(np.zeros((3, 10)))
    assert (found.value, found.standard_error, found.p_value) == (0, 0, 1)
    assert found.interval() == (0, 0)
    assert found.seeds_for(0.01) == 2


def test_weights_and_cells_without_one_by_hand():
    values = [[1, 0, 1, 1], [1, 0, 0, 1]]
    found = compare(values, cells=["a", "a", "b", "unused"], weights={"a": 0.25, "b": 0.75})
    assert found.value == pytest.approx(0.25 * 0.5 + 0.75 * 0.5)
    assert found.items == 3


def test_items_of_one_cluster_count_as_one():
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, 40).repeat(6) + rng.normal(0, 0.01, (4, 240))
    clusters = [str(i // 6) for i in range(240)]
    together, apart = compare(values, clusters=clusters), compare(values)
    assert (together.items, together.clusters) == (240, 40)
    assert (apart.items, apart.clusters) == (240, 240)
    assert together.standard_error > 1.5 * apart.standard_error


@given(st.integers(2, 5), st.integers(2, 12), st.integers(0, 1000))
def test_balanced_and_shifted(seeds, items, seed):
    values = np.random.default_rng(seed).integers(-1, 2, (seeds, items)).astype(float)
    found, negative, shifted = compare(values), compare(-values), compare(values + 5)
    assert found.value == pytest.approx(values.mean())
    assert negative.p_value == pytest.approx(found.p_value)
    assert shifted.standard_error == pytest.approx(found.standard_error)
    assert 0 <= found.p_value <= 1
    order = np.random.default_rng(seed + 1).permutation(items)
    assert compare(values[:, order]).standard_error == pytest.approx(found.standard_error)


CASES = [  # seeds, items, and standard deviations of seeds, items, and of both together
    (3, 200, 0.05, 0.05, 0.2),
    (3, 1000, 0.0, 0.4, 0.3),
    (5, 200, 0.02, 0.1, 0.3),
    (5, 1000, 0.02, 0.1, 0.3),
    (10, 200, 0.01, 0.3, 0.3),
    (10, 1000, 0.05, 0.05, 0.2),
]


def coverage(seeds, items, by_seed, by_item, by_both, trials, rng):
    """Share of intervals that hold the true difference, and of p-values below 0.05, where there is none."""
    covered = false = 0
    cells, clusters = ["all"] * items, [str(i) for i in range(items)]
    for _ in range(trials):
        values = (
            rng.normal(0, by_seed, (seeds, 1))
            + rng.normal(0, by_item, (1, items))
            + rng.normal(0, by_both, (seeds, items))
        )
        found = difference_over_seeds(values, cells, clusters, {"all": 1.0})
        low, high = found.interval()
        covered += low <= 0 <= high
        false += found.p_value < 0.05
    return covered / trials, false / trials


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_intervals_cover_as_often_as_they_say(case):
    covered, _ = coverage(*case, trials=400, rng=np.random.default_rng(7))
    assert 0.93 - 0.025 <= covered <= 0.975 + 0.016  # two standard errors of 400 trials around the range that holds


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("items", [200, 1000, 3000])
@pytest.mark.parametrize("spread", [(0.05, 0.05, 0.2), (0.0, 0.4, 0.3), (0.02, 0.2, 0.3)], ids=str)
def test_coverage_and_false_positives_within_the_range(seeds, items, spread):
    covered, false = coverage(seeds, items, *spread, trials=3000, rng=np.random.default_rng(seeds * items))
    # at three seeds and parts of like size 97.1 % are expected; two standard errors of 3,000 trials are 0.6 %
    assert 0.93 <= covered <= 0.975 + 0.006
    assert false <= 0.06


def test_more_seeds_resolve_more_until_the_items_are_the_limit():
    rng = np.random.default_rng(3)
    values = rng.normal(0, 0.03, (5, 1)) + rng.normal(0, 0.2, (1, 2000)) + rng.normal(0, 0.3, (5, 2000))
    found = compare(values)
    needed = found.seeds_for(0.02)
    assert needed is not None
    assert needed > 5
    assert found.seeds_for(0.03) < needed
    assert found.seeds_for(0.001) is None
    assert 0.001 < found.finest < found.resolution
    few_seeds = dataclasses.replace(found, item_variance=0.0)  # then seeds are all there is
    assert few_seeds.finest == 0
    assert few_seeds.seeds_for(0.0001) is None
    more = rng.normal(0, 0.03, (needed, 1)) + rng.normal(0, 0.2, (1, 2000)) + rng.normal(0, 0.3, (needed, 2000))
    assert compare(more).resolution < 1.6 * 0.02


def test_seeds_that_agree_exactly_leave_an_interval():
    """Each seed has two losses more than wins, on other items: no variance of seeds, and none is left of items."""
    values = np.zeros((3, 300))
    for seed, (wins, losses) in enumerate([(12, 14), (7, 9), (5, 7)]):
        values[seed, 40 * seed : 40 * seed + wins] = 1
        values[seed, 40 * seed + wins : 40 * seed + wins + losses] = -1
    found = difference_over_seeds(values, ["all"] * 300, [str(i) for i in range(300)], {"all": 1.0})
    assert found.value == pytest.approx(-2 / 300)
    assert found.seed_variance == pytest.approx(0, abs=1e-20)
    # a quarter of the variance of the items' means
    means = values.mean(axis=0)
    assert found.standard_error == pytest.approx(0.5 * means.std(ddof=1) / np.sqrt(300))
    low, high = found.interval()
    assert low < 0 < high
    assert found.p_value > 0.05
