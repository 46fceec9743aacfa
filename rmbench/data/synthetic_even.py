"""Sub-tasks of the built-in data that cannot be solved from the responses alone.

Both are right answers, to two prompts that are equally likely, and a coin or a symmetry says which is asked.
"""

from __future__ import annotations

from random import Random
from typing import TypeVar

from rmbench.data.synthetic_words import DIGITS, MOVES, TOPICS, UNITS, Draft, one_wrong

Response = TypeVar("Response")


def other_topic(rng: Random) -> Draft:
    """Write about the topic of the named words, not about another one. Margin: words off the topic (all 7)."""
    topic, other = rng.sample(TOPICS, 2)
    return Draft(["write", "about", *rng.sample(topic, 5)], rng.sample(topic, 7), rng.sample(other, 7), 7.0)


def sort_either(rng: Random) -> Draft:
    """Sort six digits; the other result is in order too. Margin: by how much one digit differs (1 to 9)."""
    one = sorted(rng.choices(DIGITS, k=6))
    rooms = [(i, d) for i in range(6) for d in DIGITS if d != one[i] and _fits(one, i, d)]
    place, digit = rng.choice(rooms)  # never empty: there are ten digits
    right, wrong = _coin(rng, one, [*one[:place], digit, *one[place + 1 :]])
    return Draft(["sort", *rng.sample(right, 6)], right, wrong, float(abs(int(right[place]) - int(wrong[place]))))


def steps_either(rng: Random) -> Draft:
    """Walk on a ring of ten numbers; the other track is a walk too, and one step is another. Margin: 1 or 2."""
    start, moves = rng.randrange(10), rng.choices(list(MOVES.values()), k=8)
    one = [(start + sum(moves[: i + 1])) % 10 for i in range(8)]
    around = [start, *one]
    rooms = [
        (i, n)
        for i in range(8)
        for n in range(10)
        if n != one[i] and _ring(n, around[i]) <= 1 and (i == 7 or _ring(n, one[i + 1]) <= 1)
    ]
    place, number = rng.choice(rooms)  # the last step can always be another
    right, wrong = _coin(rng, one, [*one[:place], number, *one[place + 1 :]])
    names = {move % 10: name for name, move in MOVES.items()}
    asked = [names[(b - a) % 10] for a, b in zip([start, *right[:-1]], right, strict=True)]
    chosen, rejected = ([str(n) for n in track] for track in (right, wrong))
    return Draft(["start", "at", str(start), *asked], chosen, rejected, float(_ring(one[place], number)))


def compare_signs(rng: Random) -> Draft:
    """Which of two numbers is larger, without saying them again. Margin: their difference in tens (0.1 to 9.9)."""
    a, b = rng.sample(range(100), 2)
    unit, (sign, wrong) = rng.choice(UNITS), "<>" if a < b else "><"
    prompt = ["compare", *f"{a:02d}", unit, "and", *f"{b:02d}", unit]
    return one_wrong(prompt, [unit, sign, unit], 1, wrong, abs(a - b) / 10)


def _fits(ordered: list[str], place: int, digit: str) -> bool:
    """Whether the digits stay in order with another one there."""
    return all(a <= digit for a in ordered[:place]) and all(digit <= b for b in ordered[place + 1 :])


def _ring(a: int, b: int) -> int:
    """How far apart two numbers are on the ring of ten."""
    return min((a - b) % 10, (b - a) % 10)


def _coin(rng: Random, one: Response, other: Response) -> tuple[Response, Response]:
    """The two in random order: which of them is asked for means nothing without the prompt."""
    return (one, other) if rng.random() < 0.5 else (other, one)
