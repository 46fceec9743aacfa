"""Conversations as the chat template writes them, and what of them it leaves out.

A template is asked, not read: a field has a place in it if the text changes when the field is taken away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2

from rmbench.data.messages import PLAIN, Message, more_than_text
from rmbench.data.protocols import Tokenizer

# What tells a tool's answer apart from others'; templates leave it out where the order determines it.
_NAMES_OF_ANSWERS = ("name", "tool_call_id")


@dataclass(frozen=True)
class LeftOut:
    """Fields that a text lacks.

    `lost` are those for which the template has no place; `by_rule` those that it leaves out here and would render if
    the conversation ended with that turn (the thoughts of earlier turns, say).
    """

    lost: tuple[str, ...] = ()
    by_rule: tuple[str, ...] = ()


def render(
    conversations: Sequence[list[Message]], tokenizer: Tokenizer, template_kwargs: Sequence[Mapping[str, object]] = ()
) -> list[str]:
    """The text of each conversation as the template writes it, special tokens included.

    Args:
        conversations: lists of messages.
        tokenizer: the one with the template.
        template_kwargs: what each conversation gives to the template beside its messages; nothing if empty.

    Raises:
        jinja2.TemplateError: the template refuses a conversation.
    """
    given = template_kwargs or [{}] * len(conversations)
    try:
        if not any(template_kwargs) and not any(map(more_than_text, conversations)):
            return list(tokenizer.apply_chat_template(list(conversations), tokenize=False))
        return [
            str(tokenizer.apply_chat_template(conversation, tokenize=False, **kwargs))
            for conversation, kwargs in zip(conversations, given, strict=True)
        ]
    except jinja2.TemplateError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # the template's own fault, or a field or a tool of another form than it reads
        raise jinja2.TemplateRuntimeError(f"{type(error).__name__}: {error}") from error


def left_out(conversation: list[Message], tokenizer: Tokenizer, template_kwargs: Mapping[str, object]) -> LeftOut:
    """Which fields of the messages, and whether the tools, are missing from the text.

    Raises:
        jinja2.TemplateError: the template refuses the conversation.
    """
    if not template_kwargs and not more_than_text(conversation):
        return LeftOut()
    lost: list[str] = []
    by_rule: list[str] = []
    for name in dict.fromkeys(name for message in conversation for name in _fields(message)):
        last = max(i for i, message in enumerate(conversation) if name in _fields(message))
        if _matters(conversation, name, tokenizer, template_kwargs):
            continue
        place = by_rule if _matters(conversation[: last + 1], name, tokenizer, template_kwargs) else lost
        place.append(name)
    if "tools" in template_kwargs:
        without = {name: value for name, value in template_kwargs.items() if name != "tools"}
        if render([conversation], tokenizer, [template_kwargs]) == render([conversation], tokenizer, [without]):
            lost.append("tools")
    return LeftOut(tuple(lost), tuple(by_rule))


def plain(messages: list[Message]) -> list[Message]:
    """Only role and content."""
    return [{name: message[name] for name in PLAIN} for message in messages]


def _fields(message: Message) -> list[str]:
    names = _NAMES_OF_ANSWERS if message["role"] == "tool" else ()
    return [name for name in message if name not in PLAIN and name not in names]


def _matters(
    conversation: list[Message], name: str, tokenizer: Tokenizer, template_kwargs: Mapping[str, object]
) -> bool:
    """Whether the text changes when no message has this field; a template that then refuses it reads the field.

    Args:
        conversation: has the field in some message.
        name: of the field.
        tokenizer: its template renders.
        template_kwargs: what the row gives to the template.
    """
    whole = render([conversation], tokenizer, [template_kwargs])
    bare = [
        {key: value for key, value in message.items() if key != name or name not in _fields(message)}
        for message in conversation
    ]
    try:
        return whole != render([bare], tokenizer, [template_kwargs])
    except jinja2.TemplateError:
        return True
