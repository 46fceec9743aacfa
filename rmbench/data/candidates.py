"""Prompts with responses to be scored: any of the usual columns, one row or several to a prompt."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from rmbench.data.formats import read_template_kwargs
from rmbench.data.messages import BadRow, Message, Row, read_side
from rmbench.data.rowfiles import Placed, json_lines, read_rows
from rmbench.errors import UserError
from rmbench.files import Json

LISTS = ("responses", "completions")
STREAM = "-"


@dataclass
class Candidates:
    """A prompt, its responses, where they stood in the file, and what is known of them."""

    prompt: list[Message]
    responses: list[list[Message]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # of each response: the row of the file
    gold: list[float] = field(default_factory=list)  # of each response, or empty
    rewards: dict[str, list[float]] = field(default_factory=dict)  # checkpoint -> of each response
    template_kwargs: Json = field(default_factory=dict)  # as a `Pair` has them


def read_candidates(source: str) -> tuple[list[Row], list[Candidates]]:
    """The rows as they stand, and the responses by prompt; rows with the same prompt are one prompt's responses.

    Raises:
        UserError: no rows, or one that has no prompt with a response, or gold scores that do not fit.
    """
    placed: Iterable[Placed] = json_lines(sys.stdin.buffer, "standard input") if source == STREAM else read_rows(source)
    rows: list[Row] = []
    prompts: dict[str, Candidates] = {}
    for place, row in placed:
        try:
            if isinstance(row, BadRow):
                raise row
            prompt, responses = _prompt_and_responses(row)
            gold = _gold(row, len(responses))
            given = read_template_kwargs(row, prompt)
        except BadRow as bad:
            raise UserError(f"{place}: {bad}.") from bad
        candidates = prompts.setdefault(json.dumps([prompt, given]), Candidates(prompt, template_kwargs=given))
        candidates.responses += responses
        candidates.places += [len(rows)] * len(responses)
        candidates.gold += gold
        rows.append(row)
    if not rows:
        raise UserError(f"{source}: no rows.")
    with_gold = {len(c.gold) == len(c.responses) for c in prompts.values()}
    if any(c.gold for c in prompts.values()) and with_gold != {True}:
        raise UserError(f"{source}: some responses have a gold score and some have none.")
    return rows, list(prompts.values())


def _prompt_and_responses(row: Row) -> tuple[list[Message], list[list[Message]]]:
    """`messages`, or `prompt` with `response` or a list `responses`; texts or lists of messages."""
    if "messages" in row:
        turns = _turns(row, "messages", "user")
        if turns[-1]["role"] != "assistant" or len(turns) < 2:
            raise BadRow("turn_order", "messages must end with a turn of 'assistant' after a prompt")
        return turns[:-1], [turns[-1:]]
    column = next((name for name in ("response", *LISTS) if name in row), None)
    if "prompt" not in row or column is None:
        raise BadRow("missing_column", f"no prompt with response or responses, nor messages; found {', '.join(row)}")
    prompt = _turns(row, "prompt", "user")
    texts = row[column] if column in LISTS else [row[column]]
    if not isinstance(texts, list) or not texts:
        raise BadRow("wrong_type", f"{column} is {texts!r:.40}; a list of responses was expected")
    return prompt, [_turns({column: text}, column, "assistant") for text in texts]


def _turns(row: Row, column: str, role: str) -> list[Message]:
    side = read_side(row, column, False)
    return [{"role": role, "content": side}] if isinstance(side, str) else side


def _gold(row: Row, n: int) -> list[float]:
    """The column `gold`: a number for each response; empty without one."""
    value = row.get("gold")
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    bad = [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v)]
    if bad or len(values) != n:
        raise BadRow("bad_rating", f"gold is {value!r:.60}; {n} finite number(s) were expected, one for each response")
    return [float(v) for v in values]
