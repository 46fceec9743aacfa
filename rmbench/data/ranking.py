"""Rows that are no pairs: several rated responses to a prompt in a row, or one response in each row.

| columns | read as |
|---|---|
| prompt or context; responses or completions; scores, ratings or ranks | as many ratings as responses |
| prompt or context; responses or completions: objects of text and score, rating or rank | NeMo RL's form |
| prompt; completion or response; label (true: good), score, rating or rank | rows with equal prompts belong together |

A higher score or rating is better, a lower rank. Which pairs are made of them is `dataset.ranked`; equal ratings are no
preference. The rating margin of a pair is the gap of the two ratings; a label has none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby, pairwise

from rmbench.config import Ranked
from rmbench.data.formats import ONE_RATING, ONE_RESPONSE, RATED, RESPONSES, Pair, explicit, labels, number
from rmbench.data.formats import read_template_kwargs as template_kwargs_of
from rmbench.data.messages import BadRow, Message, Row, read_side
from rmbench.files import Json

_TEXT_OF_RESPONSE = ("text", "completion", "response", "content", "answer")


@dataclass(frozen=True, slots=True)
class Response:
    """A response and its rating; higher is better. `number` is that of its row, `name` what a pair calls it.

    `also` are the ratings of further columns, which are to order the responses in the same way.
    """

    turns: list[Message]
    rating: float
    name: str
    number: int = 0
    also: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Responses:
    """All responses to a prompt; `has_gaps` says whether the gap of two ratings means anything."""

    prompt: list[Message]
    responses: list[Response]
    has_gaps: bool
    source: str
    section: str
    template_kwargs: Json = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A key that is equal for rows whose responses belong together."""
        return json.dumps([self.prompt, self.template_kwargs, self.has_gaps])


def is_ranking(row: Row) -> bool:
    """Whether a row has several responses."""
    return _no_pair(row) and any(name in row for name in RESPONSES)


def is_single(row: Row) -> bool:
    """Whether a row has one response with its label or rating."""
    return (
        _no_pair(row)
        and any(name in row for name in ONE_RESPONSE)
        and any(name in row for name in ("label", *ONE_RATING))
    )


def parse_ranking(row: Row, source: str) -> Responses:
    """Several responses of one row.

    Raises:
        BadRow: fewer than two, no ratings, or one that is none.
    """
    column = _one_of(row, RESPONSES)
    values = row[column]
    if not isinstance(values, list):
        raise BadRow("wrong_type", f"{column} is of type {type(values).__name__}; a list of responses was expected")
    if len(values) < 2:
        raise BadRow("too_few_answers", f"{column} holds {len(values)}; two are needed to compare")
    beside = [name for name in RATED if row.get(name) is not None]
    if beside:
        ratings = row[beside[0]]
        if not isinstance(ratings, list) or len(ratings) != len(values):
            found = f"{len(ratings)}" if isinstance(ratings, list) else f"a {type(ratings).__name__}"
            raise BadRow("bad_rating", f"{beside[0]} holds {found} for {len(values)} {column}")
        rated = [(value, _rating(one, beside[0])) for value, one in zip(values, ratings, strict=True)]
        for other in beside[1:]:
            _refuse_other_order([rating for _, rating in rated], row[other], beside[0], other)
    else:
        rated = [_rated_object(value, f"{column}[{i}]") for i, value in enumerate(values)]
        in_all = [name for name in ONE_RATING if all(value.get(name) is not None for value in values)]
        for other in in_all[1:]:
            _refuse_other_order([rating for _, rating in rated], [value[other] for value in values], in_all[0], other)
    prompt, turns = _conversations(row, [value for value, _ in rated], column)
    names = labels(row, source)
    ratings_in_order = [rating for _, rating in rated]
    responses = [Response(*of_one, str(i)) for i, of_one in enumerate(zip(turns, ratings_in_order, strict=True), 1)]
    return Responses(prompt, responses, True, *names[:2], template_kwargs_of(row, prompt))


def parse_single(row: Row, source: str, row_number: int) -> Responses:
    """The one response of a row.

    Raises:
        BadRow: it has no prompt, or a label or rating that is none.
    """
    column = _one_of(row, ONE_RESPONSE)
    known = {name: _rating(row[name], name) for name in ONE_RATING if row.get(name) is not None}
    if not known or row.get("label") is not None:
        label = row.get("label")
        if isinstance(label, BadRow) or label not in (0, 1):
            raise BadRow("bad_rating", f"label is {label!r:.40}; true (good) or false was expected")
        known["label"] = float(label)
    read, *others = known
    prompt, (turns,) = _conversations(row, [row[column]], column)
    source, section, name = labels(row, source)
    also = {other: known[other] for other in others}
    response = Response(turns, known[read], name or str(row_number), row_number, also)
    return Responses(prompt, [response], read != "label", source, section, template_kwargs_of(row, prompt))


def check_order(group: Responses) -> None:
    """Rows of one prompt, each with two ratings, are ordered by both in the same way.

    Raises:
        BadRow: they are not.
    """
    rated = [response for response in group.responses if response.also]
    for other in dict.fromkeys(name for response in rated for name in response.also):
        both = [response for response in rated if other in response.also]
        gold = [response.also[other] for response in both]
        if _other_order([response.rating for response in both], gold):
            numbers = ", ".join(str(response.number) for response in both[:5])
            raise BadRow("bad_rating", f"the rating and {other} of rows {numbers} order the responses differently")


def pairs_of(group: Responses, how: Ranked) -> Iterator[tuple[Response, Response, Pair | None]]:
    """The two responses of each comparison, the better one first, with their pair; None where they are rated alike.

    best_worst takes the first of the best and the first of the worst.
    """
    order = sorted(group.responses, key=lambda response: -response.rating)
    compared: Sequence[tuple[Response, Response]]
    if how is Ranked.best_worst:
        worst = next((response for response in order[1:] if response.rating == order[-1].rating), None)
        compared = [] if worst is None else [(order[0], worst)]
    else:
        compared = list(combinations(order, 2) if how is Ranked.all_pairs else pairwise(order))
    for better, worse in compared:
        gap = better.rating - worse.rating
        margin = gap if group.has_gaps else None
        sides = (group.prompt, better.turns, worse.turns)
        name = f"{better.name}-{worse.name}"
        pair = Pair(*sides, margin, group.source, group.section, name, group.template_kwargs)
        yield better, worse, pair if gap else None


def _no_pair(row: Row) -> bool:
    return "chosen" not in row and "rejected" not in row


def _one_of(row: Row, names: Sequence[str]) -> str:
    """The column of those that mean the same.

    Raises:
        BadRow: there are two, and they differ.
    """
    found = [name for name in names if row.get(name) is not None] or [name for name in names if name in row]
    if any(row[name] != row[found[0]] for name in found):
        raise BadRow("unsupported_column", f"{' and '.join(map(repr, found))} mean the same and differ; keep one")
    return found[0]


def _rated_object(value: object, where: str) -> tuple[object, float]:
    """Response and rating of one object in the list."""
    if not isinstance(value, dict):
        raise BadRow("missing_column", f"{where} has no rating; give scores, ratings or ranks beside the responses")
    text = next((name for name in _TEXT_OF_RESPONSE if value.get(name) is not None), None)
    rated = next((name for name in ONE_RATING if value.get(name) is not None), None)
    if text is None or rated is None:
        wanted = f"{', '.join(_TEXT_OF_RESPONSE)} and {', '.join(ONE_RATING)}"
        raise BadRow("missing_column", f"{where} needs one of each of {wanted}; found {', '.join(map(repr, value))}")
    return value[text], _rating(value[rated], f"{where}.{rated}")


def _rating(value: object, where: str) -> float:
    """A rating of which more is better."""
    rating = number(value, where)
    if not math.isfinite(rating):
        raise BadRow("bad_rating", f"{where} is {rating}, not a finite number")
    return -rating if where.rpartition(".")[2] in ("rank", "ranks") else rating


def _refuse_other_order(ratings: Sequence[float], others: object, read: str, other: str) -> None:
    """Raise `BadRow` where a second column of ratings puts two responses the other way round."""
    if not isinstance(others, list) or len(others) != len(ratings):
        raise BadRow("bad_rating", f"{read} and {other} rate another number of responses")
    if _other_order(ratings, [_rating(value, other) for value in others]):
        raise BadRow("bad_rating", f"{read} and {other} order the responses differently; keep the one that is meant")


def _other_order(ratings: Sequence[float], others: Sequence[float]) -> bool:
    """Whether some two responses are the other way round."""
    both = sorted(zip(ratings, others, strict=True))
    highest = -math.inf  # of the others, among lower ratings
    for _, equal in groupby(both, key=lambda pair: pair[0]):
        found = [other for _, other in equal]
        if min(found) < highest:
            return True
        highest = max(highest, *found)
    return False


def _conversations(row: Row, responses: Sequence[object], column: str) -> tuple[list[Message], list[list[Message]]]:
    if not any(name in row for name in ("prompt", "context")):
        raise BadRow("missing_column", f"no column 'prompt' beside {column!r}; found {', '.join(map(repr, row))}")
    prompt = read_side(row, _one_of(row, ("prompt", "context")), False)
    turns = []
    for response in responses:
        side = read_side({column: response}, column, False)
        messages, one, _ = explicit(prompt, side, side)
        turns.append(one)
    return messages, turns
