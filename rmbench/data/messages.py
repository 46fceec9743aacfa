"""One cell of a row: a text, or a conversation as a list of messages. What is neither is refused with a reason."""

from __future__ import annotations

import re
from typing import Any

Message = dict[str, str]
Row = dict[str, Any]
Side = str | list[Message]

ROLES = ("system", "user", "assistant")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLE_OF = {"Human": "user", "Assistant": "assistant"}
_TELLS_OF_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']\s*:""")


class BadRow(ValueError):
    """A row that fits no form: `rule` is the short name it is counted under, the text says what is wrong.

    Rules: missing_column, null, wrong_type, bad_text (not UTF-8), bad_message (no role or content), bad_role,
    empty_prompt, prompt_mismatch, no_shared_prompt, turn_order, bad_rating, unsupported_column, unreadable,
    too_few_answers; of `NoPreference`: tie.
    """

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


class NoPreference(BadRow):
    """A sound row that prefers neither side. It is counted and left out whatever `on_bad_row` says."""


def read_side(row: Row, column: str, alone: bool) -> Side:
    """A column as text or as conversation.

    Args:
        row: the whole row.
        column: "prompt", "chosen" or "rejected".
        alone: there is no prompt column, so that a text holds the prompt too.

    Raises:
        BadRow: it is neither.
    """
    value = row[column]
    if value is None:
        raise BadRow("null", f"{column} is null")
    if isinstance(value, str):
        check_text(value, column)
        if _TELLS_OF_MESSAGES.match(value):
            raise BadRow("wrong_type", f"{column} is a list of messages written out as text; give it as a list")
        return _turns(value, column, alone)
    if isinstance(value, list):
        if not value:
            raise BadRow("empty_prompt" if column == "prompt" else "turn_order", f"{column} is an empty list")
        return [_message(item, f"{column}[{i}]") for i, item in enumerate(value)]
    raise BadRow("wrong_type", f"{column} is of type {type(value).__name__}; a text or a list of messages was expected")


def _turns(text: str, column: str, alone: bool) -> Side:
    """hh-rlhf's transcript as messages, any other text as it is. Turns of the same role in a row are joined."""
    if alone and text.lstrip().startswith(("Human:", "Assistant:")):
        text = "\n\n" + text.lstrip()
    if not _TURN.match(text):
        return text
    pieces = _TURN.split(text)
    messages: list[Message] = []
    for speaker, content in zip(pieces[1::2], pieces[2::2], strict=True):
        if messages and messages[-1]["role"] == _ROLE_OF[speaker]:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{content.strip()}".strip()
        else:
            messages.append({"role": _ROLE_OF[speaker], "content": content.strip()})
    if column == "prompt" and len(messages) > 1 and not messages[-1]["content"]:
        messages.pop()  # "\n\nAssistant:" at the prompt's end only asks for the answer
    return messages


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise BadRow("bad_message", f"{where} is of type {type(item).__name__}; {{role, content}} was expected")
    for key in ("role", "content"):
        if not isinstance(item.get(key), str):
            found = ", ".join(map(repr, item)) if key not in item else f"{key} of type {type(item[key]).__name__}"
            raise BadRow("bad_message", f"{where} has no text {key!r}; looked for role, content; found {found}")
    for key in ("tool_calls", "function_call"):
        if item.get(key):
            raise BadRow("unsupported_column", f"{where} has {key}, which would be lost")
    if item["role"] not in ROLES:
        raise BadRow("bad_role", f"{where} has role {item['role']!r}; known: {', '.join(ROLES)}")
    check_text(item["content"], where)
    return {"role": item["role"], "content": item["content"]}


def check_text(text: str, where: str) -> None:
    """Refuse what no tokenizer takes: half of a surrogate pair, or the trace of a byte that was not UTF-8.

    Raises:
        BadRow: `text`, found at `where`, is no valid Unicode.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow("bad_text", f"{where} is not valid Unicode at character {error.start + 1}") from None
