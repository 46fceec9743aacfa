"""How a difference of accuracy is written: in points, with its interval, and with a verdict in the same few words."""

from __future__ import annotations

BETTER, WORSE, NOT_DISTINGUISHABLE = "better", "worse", "not distinguishable"
CORRECTED = " after Holm's correction"  # what the interval alone would have told apart
FEW_ITEMS = "too few items: no verdict"


def points(difference: float) -> str:
    """A difference of accuracy as text, in percentage points, with its sign.

    >>> points(0.0213)
    '+2.1'
    """
    return f"{100 * difference:+.1f}"


def points_interval(low: float, high: float) -> str:
    """An interval of a difference of accuracy as text, in percentage points.

    >>> points_interval(-0.0041, 0.0392)
    '[-0.4, 3.9]'
    """
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def few_differ(n: int, alike: bool = False) -> str:
    """The reason why there is no verdict: too few items differ, or all that differ do so by the same amount.

    >>> few_differ(1)
    'the models differ on 1 item: no verdict'
    """
    return f"the models differ on {n} item{'' if n == 1 else 's'}{' alike' if alike else ''}: no verdict"
