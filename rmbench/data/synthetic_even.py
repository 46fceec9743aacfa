"""Sub-tasks of the built-in data that cannot be solved from the responses alone.

Both are right answers, to two prompts that are equally likely, and a coin or a symmetry says which is asked.
"""

from __future__ import annotations

from random import Random
from typing import TypeVar

from rmbench.data.synthetic_words import DIGITS, LOOKS, MOVES, TOPICS, UNITS, Draft, one_wrong

Response = TypeVar("Response")


def other_topic(rng: Random) -> Draft:
    """Write about the topic of the named words, not about another one. Margin: words off the topic (all 7)."""
    topic, other = rng.sample(TOPICS, 2)
    return Draft(["write", "about", *rng.sample(topic, 5)], rng.sample(topic, 7), rng.sample(other, 7), 7.0)


def sort_either(rng: Random) -> Draft:
    """Sort four digits; the other result is in order too. Margin: by how much one digit differs (1 to 9)."""
    one = sorted(rng.sample(DIGITS, 4))
    rooms = [(i, d) for i in range(4) for d in DIGITS if d not in one and _fits(one, i, d)]
    place, digit = rng.choice(rooms)  # never empty: a digit that is left is beside one of the four
    right, wrong = _coin(rng, one, [*one[:place], digit, *one[place + 1 :]])
    return Draft(["sort", *rng.sample(right, 4)], right, wrong, float(abs(int(right[place]) - int(wrong[place]))))


def lead(rng: Random) -> Draft:
    """Whether a walk leads up or down from its start. Margin: by how many steps (1 to 8)."""
    start, moves = rng.choice(DIGITS), rng.choices(list(MOVES), k=8)
    while (end := sum(MOVES[move] for move in moves)) == 0:
        moves = rng.choices(list(MOVES), k=8)
    right, wrong = ("up", "down") if end > 0 else ("down", "up")
    return one_wrong(["start", "at", start, *moves], [right, "at"], 0, wrong, float(abs(end)))


def compare_signs(rng: Random) -> Draft:
    """Which of two digits is larger, without saying them again. Margin: their difference (1 to 9)."""
    a, b = rng.sample(range(10), 2)
    (one, other), unit, (sign, wrong) = rng.sample(LOOKS, 2), rng.choice(UNITS), "<>" if a < b else "><"
    prompt = ["compare", str(a), one, unit, "and", str(b), other, unit]
    return one_wrong(prompt, [one, sign, other], 1, wrong, float(abs(a - b)))


def _fits(ordered: list[str], place: int, digit: str) -> bool:
    """Whether the digits stay in order with another one there."""
    return all(a <= digit for a in ordered[:place]) and all(digit <= b for b in ordered[place + 1 :])


def _coin(rng: Random, one: Response, other: Response) -> tuple[Response, Response]:
    """The two in random order: which of them is asked for means nothing without the prompt."""
    return (one, other) if rng.random() < 0.5 else (other, one)
