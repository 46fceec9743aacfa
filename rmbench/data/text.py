"""Conversations -> token ids.

ids = tokenizer(render(messages)) with special tokens on, then a doubled leading BOS is removed: templates of decoders
write the BOS themselves, and encoders get [CLS] and [SEP] from the tokenizer alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from rmbench.config import LengthPolicy
from rmbench.data.formats import Pair
from rmbench.data.items import Item
from rmbench.data.messages import Message
from rmbench.errors import UserError

logger = logging.getLogger(__name__)

# Raise it when the same pairs, tokenizer and length policy give other ids, other pairs are left out,
# or the columns in `tokens` change.
VERSION = 1
CONTEXT_LIMIT_TOKENS = 2048
ENCODE_BATCH = 1024  # pairs

# For tokenizers that bring no template; saved with the checkpoint, so that whoever loads it renders the same text.
DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}{% if not loop.last %}\n\n{% endif %}"
    "{% endfor %}{% if eos_token is defined and eos_token %}{{ eos_token }}{% endif %}"
)


class TokenGroup:
    """Responses to one prompt as the model sees them: `sequences` are token ids of prompt + response, one each.

    `prefix` is how many leading tokens all of them have in common.
    """

    __slots__ = ()
    id: str
    sequences: tuple[list[int], ...]
    prefix: int

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.sequences))

    @property
    def distinct_tokens(self) -> int:
        """Tokens of all sequences, the common prefix counted once."""
        return sum(map(len, self.sequences)) - self.prefix * (len(self.sequences) - 1)

    @property
    def identical(self) -> bool:
        """Nothing tells the responses apart: a tie for every model."""
        first, *others = self.sequences
        return bool(others) and all(ids == first for ids in others)


@dataclass(frozen=True, slots=True)
class TokenPair(TokenGroup):
    """A pair as the model sees it: token ids of prompt + chosen and of prompt + rejected."""

    pair: Pair
    chosen: list[int]
    rejected: list[int]
    prefix: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", common_prefix(self.chosen, self.rejected))

    @property
    def id(self) -> str:  # type: ignore[override]
        """The pair's own."""
        return self.pair.id

    @property
    def sequences(self) -> tuple[list[int], ...]:  # type: ignore[override]
        """Chosen, then rejected."""
        return self.chosen, self.rejected


@dataclass(frozen=True, slots=True)
class TokenItem(TokenGroup):
    """An item of a benchmark as the model sees it."""

    item: Item
    sequences: tuple[list[int], ...]
    prefix: int = field(init=False)

    def __post_init__(self) -> None:
        first, *others = self.sequences
        shared = min((common_prefix(first, ids) for ids in others), default=len(first))
        object.__setattr__(self, "prefix", shared)

    @property
    def id(self) -> str:  # type: ignore[override]
        """The item's own."""
        return self.item.id


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading ids are the same.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)


def render(conversations: Sequence[list[Message]], tokenizer: Any) -> list[str]:
    """The text of each conversation as the template writes it, special tokens included.

    Raises:
        jinja2.TemplateError: the template refuses a conversation.
    """
    return list(tokenizer.apply_chat_template(list(conversations), tokenize=False))


def encode(conversations: Sequence[list[Message]], tokenizer: Any, keep_doubled_bos: bool = False) -> list[list[int]]:
    """Token ids of each conversation, special tokens included, uncut.

    `keep_doubled_bos` leaves the second BOS where template and tokenizer both write one, as RewardBench does.

    Raises:
        jinja2.TemplateError: the tokenizer's template refuses a conversation (a system turn, say).
    """
    texts = render(conversations, tokenizer)
    rows = tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if keep_doubled_bos or bos is None:
        return list(rows)
    return [ids[1:] if ids[:2] == [bos, bos] else ids for ids in rows]


def cut(ids: list[int], max_length: int, policy: LengthPolicy, special: frozenset[int]) -> list[int]:
    """At most `max_length` ids; a leading BOS or [CLS] and a trailing EOS or [SEP] always stay.

    `truncate_prompt_left` removes what follows the leading token, so the end of the response, where the reward is read,
    stays; `truncate_response` removes what precedes the trailing token.
    """
    if len(ids) <= max_length:
        return ids
    if policy is LengthPolicy.truncate_prompt_left:
        head = ids[:1] if ids[0] in special else []
        return head + ids[len(ids) - (max_length - len(head)) :]
    tail = ids[-1:] if ids[-1] in special else []
    return ids[: max_length - len(tail)] + tail


def tokenize_pairs(
    pairs: Sequence[Pair],
    tokenizer: Any,
    max_length: int,
    policy: LengthPolicy = LengthPolicy.truncate_prompt_left,
    *,
    name: str = "pairs",
    drop_identical: bool = False,
    drop_refused: bool = False,
) -> tuple[list[TokenPair], Counter[str]]:
    """Token ids of every pair within `max_length`, and how many pairs were dropped or cut under which rule.

    `drop_identical` is for training, where a pair with equal ids teaches nothing; evaluation keeps such pairs as ties.

    Raises:
        UserError: the chat template refuses a conversation (unless `drop_refused`), or no pair is left.
    """
    counts: Counter[str] = Counter()
    kept = [row for _, row in token_pairs(pairs, tokenizer, max_length, policy, counts, drop_identical, drop_refused)]
    logger.info("%s: %d pairs, at most %d tokens%s", name, len(kept), max_length, listed(counts))
    check_some_left(len(kept), len(pairs), name, counts)
    return kept, counts


def token_pairs(
    pairs: Sequence[Pair],
    tokenizer: Any,
    max_length: int,
    policy: LengthPolicy,
    counts: Counter[str],
    drop_identical: bool,
    drop_refused: bool,
) -> Iterator[tuple[int, TokenPair]]:
    """One pair after the other with its place in `pairs`, `ENCODE_BATCH` of them in memory; fills `counts`.

    Raises:
        UserError: the chat template refuses a conversation (unless `drop_refused`).
    """
    special = frozenset(tokenizer.all_special_ids)
    for start in range(0, len(pairs), ENCODE_BATCH):
        batch = list(enumerate(pairs[start : start + ENCODE_BATCH], start))
        try:
            ids = _encode_sides(batch, tokenizer)
        except jinja2.TemplateError:
            batch = _accepted_by_template(batch, tokenizer, drop_refused, counts)
            ids = _encode_sides(batch, tokenizer)
        for (place, pair), chosen, rejected in zip(batch, ids[::2], ids[1::2], strict=True):
            if max(len(chosen), len(rejected)) > max_length:
                if policy is LengthPolicy.drop:
                    counts["dropped: longer than max_length"] += 1
                    continue
                counts[f"cut ({policy.name})"] += 1
            row = TokenPair(pair, cut(chosen, max_length, policy, special), cut(rejected, max_length, policy, special))
            if row.identical:
                counts["dropped: equal token ids" if drop_identical else "ties: equal token ids"] += 1
                if drop_identical:
                    continue
            yield place, row


def check_some_left(n_kept: int, n_pairs: int, name: str, counts: Counter[str]) -> None:
    """Refuse to go on without any pair.

    Raises:
        UserError: `n_kept` is 0.
    """
    if not n_kept:
        raise UserError(
            f"{name}: none of {n_pairs} pairs is left after tokenising{listed(counts)}.\n"
            "A larger max_length or another length_policy keeps more."
        )


def tokenize_items(
    items: Sequence[Item], tokenizer: Any, max_length: int, name: str, keep_doubled_bos: bool = False
) -> tuple[list[TokenItem], Counter[str]]:
    """Token ids of every item, in order, and to how many a rule was applied; nothing is dropped.

    A text longer than `max_length` loses what follows its first token, so the end of the response stays.

    Raises:
        UserError: the chat template refuses a conversation.
    """
    counts: Counter[str] = Counter()
    special = frozenset(tokenizer.all_special_ids)
    policy = LengthPolicy.truncate_prompt_left
    rows = []
    ids = iter(_encode_items(items, tokenizer, keep_doubled_bos))
    for item in items:
        uncut = [next(ids) for _ in item.responses]
        row = TokenItem(item, tuple(cut(one, max_length, policy, special) for one in uncut))
        if max(map(len, uncut)) > max_length:
            counts[f"cut ({policy.name})"] += 1
        if row.identical:
            counts["ties: equal token ids"] += 1
        rows.append(row)
    logger.info("%s: %d items, at most %d tokens%s", name, len(rows), max_length, listed(counts))
    return rows, counts


def _encode_items(items: Sequence[Item], tokenizer: Any, keep_doubled_bos: bool) -> list[list[int]]:
    """All responses of all items at once; one by one only to find which conversation the template refuses."""
    conversations = [[[*item.prompt, *response] for response in item.responses] for item in items]
    try:
        return encode([c for of_item in conversations for c in of_item], tokenizer, keep_doubled_bos)
    except jinja2.TemplateError:
        for item, of_item in zip(items, conversations, strict=True):
            try:
                encode(of_item, tokenizer)
            except jinja2.TemplateError as error:
                raise UserError(
                    f"item {item.id!r}: the tokenizer's chat template refuses this conversation: {error}"
                ) from error
        raise


def context_length(tokenizer: Any, config: Any) -> int | None:
    """Tokens that the model can take, or None if neither the tokenizer nor the config states it."""
    stated = [getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    return min((int(n) for n in stated if n is not None and 0 < n < 10**9), default=None)


def resolve_max_length(asked: int | None, tokenizer: Any, config: Any, key: str) -> int:
    """`asked`, or min(model's context, 2048).

    Raises:
        UserError: the model's context is shorter than `asked`.
    """
    context = context_length(tokenizer, config)
    if asked is None:
        return min(context or CONTEXT_LIMIT_TOKENS, CONTEXT_LIMIT_TOKENS)
    if context is not None and asked > context:
        raise UserError(f"{key}={asked}: the model takes at most {context} tokens; choose {key}={context} or less.")
    return asked


def _encode_sides(batch: Sequence[tuple[int, Pair]], tokenizer: Any) -> list[list[int]]:
    """Token ids of the first pair's chosen, its rejected, the second pair's chosen, ..."""
    if not batch:
        return []
    return encode([[*pair.prompt, *side] for _, pair in batch for side in (pair.chosen, pair.rejected)], tokenizer)


def _accepted_by_template(
    batch: Sequence[tuple[int, Pair]], tokenizer: Any, drop_refused: bool, counts: Counter[str]
) -> list[tuple[int, Pair]]:
    """Those pairs, with their places, whose conversations the template renders."""
    accepted = []
    for place, pair in batch:
        try:
            render([[*pair.prompt, *pair.chosen], [*pair.prompt, *pair.rejected]], tokenizer)
            accepted.append((place, pair))
        except jinja2.TemplateError as error:
            if not drop_refused:
                raise UserError(
                    f"pair {pair.id!r}: the tokenizer's chat template refuses this conversation: {error}\n"
                    "dataset.on_bad_row=drop leaves such pairs out and counts them."
                ) from error
            counts["dropped: refused by the chat template"] += 1
    return accepted


def listed(counts: Counter[str]) -> str:
    """The counts as they end a log line."""
    return "".join(f"; {rule}: {n}" for rule, n in sorted(counts.items()))
