"""One cell of a row: a text, or a conversation as a list of messages. What is neither is refused with a reason."""

from __future__ import annotations

import json
import re
from typing import Any

# role and content, both texts, and whatever else a chat template may render: tool_calls, reasoning_content, name, ...
Message = dict[str, Any]
Row = dict[str, Any]
Side = str | list[Message]

ROLES = ("system", "user", "assistant", "tool")
PLAIN = ("role", "content")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLE_OF = {"Human": "user", "Assistant": "assistant"}
_TELLS_OF_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']\s*:""")


class BadRow(ValueError):
    """A row that fits no form: `rule` is the short name it is counted under, the text is what is wrong.

    Rules: missing_column, null, wrong_type, bad_text (not UTF-8), bad_message (no role or content), bad_role,
    empty_prompt, prompt_mismatch, no_shared_prompt, turn_order, bad_rating, unsupported_column, unreadable,
    too_few_answers; of `NoPreference`: tie. Of whole groups: one_side_only, not_paired.
    """

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


class NoPreference(BadRow):
    """A sound row that prefers neither side. It is counted and left out whatever `on_bad_row` is."""


def read_side(row: Row, column: str, holds_prompt: bool) -> Side:
    """A column as text or as conversation.

    Args:
        row: the whole row.
        column: "prompt", "chosen" or "rejected".
        holds_prompt: there is no prompt column, so that a text holds the prompt too.

    Raises:
        BadRow: it is neither.
    """
    value = row[column]
    if isinstance(value, BadRow):
        raise value
    if value is None:
        raise BadRow("null", f"{column} is null")
    if isinstance(value, str):
        check_text(value, column)
        if _TELLS_OF_MESSAGES.match(value):
            raise BadRow("wrong_type", f"{column} is a list of messages written out as text; give it as a list")
        return _turns(value, column, holds_prompt)
    if isinstance(value, list):
        if not value:
            raise BadRow("empty_prompt" if column == "prompt" else "turn_order", f"{column} is an empty list")
        return [_message(item, f"{column}[{i}]") for i, item in enumerate(value)]
    raise BadRow("wrong_type", f"{column} is of type {type(value).__name__}; a text or a list of messages was expected")


def _turns(text: str, column: str, holds_prompt: bool) -> Side:
    """hh-rlhf's transcript as messages, any other text as it is. Turns of the same role in a row are joined."""
    if holds_prompt and text.lstrip().startswith(("Human:", "Assistant:")):
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


def more_than_text(messages: list[Message]) -> bool:
    """Whether a message has fields beside role and content."""
    return any(len(message) > len(PLAIN) for message in messages)


def _message(item: Any, where: str) -> Message:
    """role, content as one text, and every other field that is not empty. `id` only names the message."""
    if not isinstance(item, dict):
        raise BadRow("bad_message", f"{where} is of type {type(item).__name__}; {{role, content}} was expected")
    fields = {
        key: value for key, value in item.items()
        if key not in (*PLAIN, "id") and not (value is None or value in ("", [], {}))
    }  # fmt: skip
    content = item.get("content")
    if isinstance(content, list):
        content = _text_of_parts(content, where)
    if content is None and "tool_calls" in fields:
        content = ""
    for key, value in (("role", item.get("role")), ("content", content)):
        if not isinstance(value, str):
            found = ", ".join(map(repr, item)) if key not in item else f"{key} of type {type(value).__name__}"
            raise BadRow("bad_message", f"{where} has no text {key!r}; looked for role, content; found {found}")
    if item["role"] not in ROLES:
        raise BadRow("bad_role", f"{where} has role {item['role']!r}; known: {', '.join(ROLES)}")
    if "tool_calls" in fields and not _are_calls(fields["tool_calls"]):
        raise BadRow("unsupported_column", f"{where} has tool_calls that are no list of {{function: {{name, ...}}}}")
    assert isinstance(content, str)
    check_text(content, where)
    for key, value in fields.items():
        check_value(value, f"{where}.{key}")
    return {"role": item["role"], "content": content} | fields


def _text_of_parts(parts: list[Any], where: str) -> str:
    """The parts of a message as one text: templates write them one after the other."""
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise BadRow("unsupported_column", f"{where} has a part of type {kind!r}; only texts are read")
        if kind is None or not isinstance(part.get("text"), str):
            raise BadRow("bad_message", f"{where} has content of type list, whose parts are not all {{type, text}}")
        if more := [key for key, value in part.items() if key not in ("type", "text") and value]:
            raise BadRow("unsupported_column", f"{where} has a part with {more[0]!r}, which would be lost")
    return "".join(part["text"] for part in parts)


def _are_calls(calls: object) -> bool:
    """Whether these are tool calls: {function: {name, arguments}}, or name and arguments alone."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        return False
    functions = [call.get("function", call) for call in calls]
    return all(isinstance(function, dict) and isinstance(function.get("name"), str) for function in functions)


def check_value(value: object, where: str) -> None:
    """Refuse what is neither text, number, list nor object all through.

    Raises:
        BadRow: JSON cannot hold `value`, found at `where`, or it has a text that is no valid Unicode.
    """
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow("unsupported_column", f"{where} cannot be read: {error}") from None
    check_text(text, where)


def check_text(text: str, where: str) -> None:
    """Refuse what no tokenizer takes: half of a surrogate pair, or the trace of a byte that was not UTF-8.

    Raises:
        BadRow: `text`, found at `where`, is no valid Unicode.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow("bad_text", f"{where} is not valid Unicode at character {error.start + 1}") from None
