"""A row in any form that people have becomes one record; what fits none is refused with a reason.

| columns | read as |
|---|---|
| prompt, chosen, rejected: texts | prompt is one user turn, chosen and rejected one assistant turn (TRL, RewardBench) |
| prompt: messages; chosen, rejected: messages or texts | TRL's explicit prompt; RewardBench's preference test sets |
| prompt: text or messages; chosen, rejected: whole conversations | both must start with it (UltraFeedback binarized) |
| chosen, rejected: whole conversations | the shared turns, up to a user turn, are the prompt (TRL's implicit prompt) |
| chosen, rejected: "\\n\\nHuman: ...\\n\\nAssistant: ..." | hh-rlhf: cut into turns, then as above |
| chosen, rejected: other texts | the shared beginning, cut back to white space, is the prompt |

A message may have more fields than role and content (tool_calls, reasoning_content), and a row `tools` and
`chat_template_kwargs`: they go to the chat template, which renders them or is found not to. Rows of several responses,
and of one, are read by `rmbench.data.ranking`.

`source` comes from the column source or subset, `section` from section, subset or source. The rating margin comes from
the first of `RATINGS` that is there. Other columns are counted as not read, or refused if the model would read them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import takewhile
from typing import Any

from rmbench.data.messages import BadRow, Message, Row, Side, check_text, check_value, read_side
from rmbench.files import Json

RATINGS = (
    ("margin",),
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
)
# Columns of rows with one response, or several, and of their ratings: see `rmbench.data.ranking`.
ONE_RESPONSE, RESPONSES = ("completion", "response"), ("responses", "completions")
ONE_RATING, RATED = ("score", "rating", "rank"), ("scores", "ratings", "ranks")
_NO_TEXT = ("images", "image", "videos", "video", "audios", "audio")
_PART_OF_THE_PROMPT = ("system", "system_prompt", "history", "documents", *_NO_TEXT)
_TEMPLATE = ("tools", "chat_template_kwargs")
# What each cell of csv, which knows only text, is read as: a number, true or false, a list or an object.
NUMBERS = {*ONE_RATING, *(column for columns in RATINGS for column in columns)}
FLAGS = {"label"}
NESTED = {*RESPONSES, *RATED, *_TEMPLATE}
COLUMNS = (
    "prompt", "context", "chosen", "rejected", *sorted(NUMBERS | FLAGS | NESTED), *ONE_RESPONSE,
    *_PART_OF_THE_PROMPT, "source", "subset", "section", "id",
)  # fmt: skip
# Arguments of `apply_chat_template` that are no variables of a template.
_NOT_THE_ROWS = {
    "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message",
    "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs",
    "return_assistant_tokens_mask", "messages",
}  # fmt: skip
_PROMPT_BY_OTHER_NAMES = ("question", "input", "instruction", "query")


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference: two ways to go on with a conversation.

    `prompt` is what both share and ends with a turn of the user or of a tool. `chosen` and `rejected` are what follows;
    each starts and ends with an assistant turn, and usually is that one turn. `template_kwargs` is what the row gives
    to the chat template beside its messages: `tools`, and the entries of `chat_template_kwargs`.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    rating_margin: float | None = None
    source: str = ""
    section: str = ""
    id: str = ""
    template_kwargs: Json = field(default_factory=dict)


def parse_row(row: Row, source: str = "") -> Pair:
    """One row of any form in the table above; `source` stands in where the row names none.

    Empty and identical responses pass: whether they are of use is the caller's decision. `id` is "" where the row has
    none.

    Raises:
        BadRow: the row fits no form.
    """
    for column in ("chosen", "rejected"):
        if column not in row:
            there = ", ".join(map(repr, row)) or "none"
            raise BadRow(
                "missing_column",
                f"no column {column!r}; looked for 'prompt', 'chosen', 'rejected'; found {there}"
                " (dataset.columns={chosen: NAME} gives a column's name)",
            )
    holds_prompt = "prompt" not in row
    chosen, rejected = read_side(row, "chosen", holds_prompt), read_side(row, "rejected", holds_prompt)
    if holds_prompt:
        if isinstance(chosen, str):
            _refuse_other_prompts(row)
        conversations = _implicit(chosen, rejected)
    else:
        conversations = explicit(read_side(row, "prompt", False), chosen, rejected)
    template_kwargs = read_template_kwargs(row, conversations[0])
    source, section, name = labels(row, source)
    return Pair(*conversations, _rating_margin(row), source, section, name, template_kwargs)


def labels(row: Row, source: str) -> tuple[str, str, str]:
    """Source, section and id of a row; `source` stands in where the row names none.

    Raises:
        BadRow: one of them is neither a text nor a number.
    """
    label = _label(row, "source") or _label(row, "subset")
    section = _label(row, "section") or _label(row, "subset") or label or source
    return label or source, section, _label(row, "id")


def is_empty(response: list[Message]) -> bool:
    """Whether there is nothing to score: the last turn is blank and calls no tool."""
    return not response[-1]["content"].strip() and "tool_calls" not in response[-1]


def explicit(prompt: Side, chosen: Side, rejected: Side) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt, chosen and rejected, where the prompt has a column of its own.

    Raises:
        BadRow: the prompt is empty or ends with the wrong turn, or a side does not follow from it.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise BadRow("empty_prompt", "the prompt is empty")
        if _is_whole(chosen) or _is_whole(rejected):
            for column, side in (("chosen", chosen), ("rejected", rejected)):
                _check_starts_with(prompt, side, column)
            return _implicit(chosen, rejected)
        prompt = [{"role": "user", "content": prompt}]
    if not any(message["content"].strip() for message in prompt):
        raise BadRow("empty_prompt", "the prompt is empty")
    if prompt[-1]["role"] not in ("user", "tool"):
        raise BadRow(
            "turn_order", f"the prompt ends with a turn of {prompt[-1]['role']!r}; it must end with the user's"
        )
    return prompt, _after(prompt, chosen, "chosen"), _after(prompt, rejected, "rejected")


def _is_whole(side: Side) -> bool:
    """Whether this is a conversation from its start, not only a response."""
    return isinstance(side, list) and side[0]["role"] != "assistant"


def _check_starts_with(prompt: str, side: Side, column: str) -> None:
    """The first turn that is not the system's must be the prompt, give or take white space around it."""
    turns = [m for m in side if m["role"] != "system"] if isinstance(side, list) else []
    if not turns or turns[0]["role"] != "user" or turns[0]["content"].strip() != prompt.strip():
        raise BadRow(
            "prompt_mismatch", f"{column} is or should be a whole conversation, but does not start with prompt"
        )


def _after(prompt: list[Message], side: Side, column: str) -> list[Message]:
    """The response that follows the prompt, whether or not the column repeats the prompt."""
    if isinstance(side, str):
        return [{"role": "assistant", "content": side}]
    if _is_whole(side):
        if side[: len(prompt)] != prompt:
            raise BadRow("prompt_mismatch", f"{column} is a whole conversation that does not start with prompt")
        side = side[len(prompt) :]
    return _checked_response(side, column)


def _checked_response(response: list[Message], column: str) -> list[Message]:
    if not response:
        raise BadRow("turn_order", f"{column} has no turn after the prompt")
    for which, message in (("start", response[0]), ("end", response[-1])):
        if message["role"] != "assistant":
            raise BadRow(
                "turn_order",
                f"the response in {column} must {which} with a turn of 'assistant', not of {message['role']!r}",
            )
    return response


def _implicit(chosen: Side, rejected: Side) -> tuple[list[Message], list[Message], list[Message]]:
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _implicit_text(chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise BadRow("wrong_type", "one of chosen and rejected is a text, the other a conversation")
    shared = _shared_length(chosen, rejected)
    # Back to a user turn: where one conversation goes on after the other's end, or the user's turns differ, the
    # answer before that belongs to both responses.
    for end in range(shared, 0, -1):
        answered = all(len(side) > end and side[end]["role"] == "assistant" for side in (chosen, rejected))
        if chosen[end - 1]["role"] == "user" and answered:
            prompt = chosen[:end]
            return prompt, _checked_response(chosen[end:], "chosen"), _checked_response(rejected[end:], "rejected")
    raise BadRow("no_shared_prompt", "chosen and rejected do not start with the same turns up to an answered user turn")


def _shared_length(a: Side, b: Side) -> int:
    """How many turns, or letters, both start with."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(a, b, strict=False)))


def _implicit_text(chosen: str, rejected: str) -> tuple[list[Message], list[Message], list[Message]]:
    shared = chosen[: _shared_length(chosen, rejected)]
    prompt = shared[: len(shared) - len(re.split(r"\s", shared)[-1])]
    if not prompt.strip():
        raise BadRow("no_shared_prompt", "chosen and rejected share no beginning; give a `prompt` column")
    turns = [[{"role": "assistant", "content": text[len(prompt) :]}] for text in (chosen, rejected)]
    return [{"role": "user", "content": prompt.rstrip()}], turns[0], turns[1]


def _refuse_other_prompts(row: Row) -> None:
    for column in _PROMPT_BY_OTHER_NAMES:
        if row.get(column):
            raise BadRow("missing_column", f"no column 'prompt', but {column!r}; name the prompt's column `prompt`")


def read_template_kwargs(row: Row, prompt: list[Message]) -> Json:
    """The row's arguments for the chat template: `tools`, and the entries of `chat_template_kwargs`.

    Raises:
        BadRow: one of them is of another form, or a column of the row would be lost: what other tools put in front of
            the prompt, unless it is a system text that the messages hold already.
    """
    for column in _PART_OF_THE_PROMPT:
        if row.get(column) and not (column.startswith("system") and prompt[0]["role"] == "system"):
            way = "only texts are read" if column in _NO_TEXT else "write it into the prompt's messages"
            raise BadRow("unsupported_column", f"{column!r} would not be read; {way}")
    tools, more = (_unwritten(row.get(column)) for column in _TEMPLATE)
    if tools and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise BadRow("unsupported_column", "'tools' is no list of objects, which is how templates take them")
    if more and not isinstance(more, dict):
        raise BadRow("unsupported_column", f"'chat_template_kwargs' is of type {type(more).__name__}, not an object")
    given = {key: value for key, value in (more or {}).items() if value is not None}
    if wrong := [key for key in given if key in _NOT_THE_ROWS]:
        raise BadRow("unsupported_column", f"'chat_template_kwargs' gives {wrong[0]!r}, which a row cannot set")
    template_kwargs = ({"tools": tools} if tools else {}) | given
    check_value(template_kwargs, "tools or chat_template_kwargs")
    return template_kwargs


def _unwritten(value: object) -> Any:
    """What a text holds that is JSON: parquet has no other way to store objects of different forms."""
    if isinstance(value, BadRow):
        raise value
    if isinstance(value, str) and value.strip():
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _label(row: Row, column: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if isinstance(value, BadRow):
        raise value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRow("wrong_type", f"{column} is of type {type(value).__name__}; a text or a number was expected")
    check_text(str(value), column)
    return str(value)


def _rating_margin(row: Row) -> float | None:
    """How much better chosen was rated than rejected, in the data's own unit; None where the row has none."""
    for columns in RATINGS:
        values = [row.get(column) for column in columns]
        if all(value is None for value in values):
            continue
        ratings = [number(value, column) for value, column in zip(values, columns, strict=True)]
        margin = ratings[0] if len(ratings) == 1 else ratings[0] - ratings[1]
        if not math.isfinite(margin):
            raise BadRow("bad_rating", f"{' - '.join(columns)} is {margin}, not a finite number")
        return margin
    return None


def number(value: object, column: str) -> float:
    """A rating as a float; may be infinite or NaN.

    Raises:
        BadRow: it is not a number.
    """
    if isinstance(value, BadRow):
        raise value
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise BadRow("bad_rating", f"{column} is {'null' if value is None else repr(value)[:40]}, not a number")
    try:
        return float(value)
    except OverflowError:  # an integer beyond float's range
        return math.inf
