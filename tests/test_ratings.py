"""Rating margins in a unit that sources share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbench.config import RatingScale
from rmbench.data.formats import Pair
from rmbench.data.ratings import with_scaled_ratings
from rmbench.errors import UserError


def pairs(*margins, source="a"):
    message = [{"role": "user", "content": "x"}]
    return [Pair(message, message, message, margin, source, "s", f"{source}{i}") for i, margin in enumerate(margins)]


def scaled(rows, scale):
    return [pair.rating_margin for pair in with_scaled_ratings(rows, scale, "bt_margin")]


def test_by_hand():
    rows = pairs(3, 4) + pairs(1, 1, source="b") + pairs(0.5, 2, 0.5, 8, source="c")
    assert scaled(rows, RatingScale.raw) == [3, 4, 1, 1, 0.5, 2, 0.5, 8]
    root = 12.5**0.5  # of (9 + 16) / 2
    assert scaled(rows, RatingScale.std)[:4] == pytest.approx([3 / root, 4 / root, 1, 1])
    # ranks 1.5, 3, 1.5, 4 of four, each less one half
    assert scaled(rows, RatingScale.rank) == [0.25, 0.75, 0.5, 0.5, 0.25, 0.625, 0.25, 0.875]


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=20), st.sampled_from(list(RatingScale)))
def test_order_is_kept_and_nothing_overflows(margins, scale):
    result = scaled(pairs(*margins), scale)
    assert all(0 <= margin < float("inf") for margin in result)
    by_raw = sorted(range(len(margins)), key=lambda i: margins[i])
    assert [result[i] for i in by_raw] == sorted(result)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=20), st.floats(0.1, 100))
def test_another_unit_of_a_source_changes_nothing(margins, factor):
    other = scaled(pairs(*(factor * m for m in margins)), RatingScale.std)
    assert other == pytest.approx(scaled(pairs(*margins), RatingScale.std))


@pytest.mark.parametrize(
    ("margins", "says"), [((1, None), "1 of 2.*no rating margin"), ((1, -2), "below 0.*'a1' of 'a'")]
)
def test_pairs_without_a_usable_rating_are_refused(margins, says):
    with pytest.raises(UserError, match=says):
        with_scaled_ratings(pairs(*margins), RatingScale.std, "bt_margin")
