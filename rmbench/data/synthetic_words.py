"""The vocabulary of the built-in data, and how a sub-task uses it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain


def words(text: str) -> tuple[str, ...]:
    """Split at spaces."""
    return tuple(text.split())


TOPICS: tuple[tuple[str, ...], ...] = (
    words("lion tiger zebra rabbit otter falcon spider whale turtle donkey camel beetle"),
    words("bread cheese apple pepper onion butter soup honey rice lemon noodle carrot"),
    words("rain snow wind storm cloud thunder frost sunshine fog hail drizzle breeze"),
    words("guitar drum violin trumpet melody rhythm choir concert flute song piano chord"),
    words("football tennis hockey goal referee stadium racket sprint medal coach league swimmer"),
    words("planet rocket comet orbit galaxy moon telescope astronaut meteor satellite star crater"),
    words("harbour sailor anchor island lighthouse beach wave captain ferry reef shell tide"),
    words("doctor nurse fever bandage vaccine clinic surgery pill bone heart lung ambulance"),
)
OPENERS = words("well okay right so now alright")  # before every response; which one means nothing
NUMBERS = {"three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}

AGAINST = words("attack trick trap chase scare block follow stop")
FOR = words("help hide feed thank guide visit protect comfort")
VICTIMS = words("neighbour teacher child driver dog cat horse parrot")
WRONGDOERS = words("thief robber poacher burglar hacker vandal smuggler bully")
THINGS = words("process balloon candle wall statue pumpkin bottle tyre")
REAL = words("kitchen office street garden village market")
FICTION = words("game film novel dream fable opera")
LOOKS = words("old little red noisy tall quiet fat lonely")
TIMES = words("today tonight tomorrow soon later again monday sunday")
TOLERANCE = {"baby": 1, "toddler": 2, "pupil": 3, "teenager": 5, "adult": 6, "athlete": 7, "giant": 9}
STRENGTH = {"drops": 0, "tablets": 1, "injections": 2}
COMPLY = (words("sure here is how you can"), words("yes this is the way to"))
REFUSE = (words("sorry i can not help you"), words("no i will not show how"))

DIGITS = words("0 1 2 3 4 5 6 7 8 9")
MOVES = {"up": 1, "stay": 0, "down": -1}
UNITS = words("grams metres litres hours miles coins")
OPERATORS = {"plus": "+", "minus": "-", "times": "*", "over": "/"}
VARIABLES = words("x y z u v w p q")
_OTHERS = words("write about but and avoid use words how do i the in give it to sort start at compare < > let be =")

_SAFETY = (AGAINST, FOR, VICTIMS, WRONGDOERS, THINGS, REAL, FICTION, LOOKS, TIMES, TOLERANCE, STRENGTH)
_REASONING = (DIGITS, MOVES, UNITS, OPERATORS, OPERATORS.values(), VARIABLES)
_GROUPS = (_OTHERS, OPENERS, *TOPICS, NUMBERS, *_SAFETY, *COMPLY, *REFUSE, *_REASONING)
WORDS: tuple[str, ...] = tuple(dict.fromkeys(chain.from_iterable(_GROUPS)))
"""Every word that can occur, in an order that no knob changes."""


@dataclass
class Draft:
    """A pair as lists of words; `margin` says how much better the chosen response is, on its sub-task's own scale."""

    prompt: list[str]
    chosen: list[str]
    rejected: list[str]
    margin: float


def one_wrong(prompt: list[str], right: list[str], place: int, wrong: str, margin: float) -> Draft:
    """A pair whose rejected response differs in one word.

    Args:
        prompt: words.
        right: the chosen response.
        place: of the word that is exchanged.
        wrong: what stands there instead.
        margin: how much better the right one is.
    """
    return Draft(prompt, right, [*right[:place], wrong, *right[place + 1 :]], float(margin))
