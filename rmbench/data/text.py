"""Conversations -> token ids.

ids = tokenizer(render(messages)) with special tokens on, then a doubled leading BOS is removed: templates of decoders
write the BOS themselves, and encoders get [CLS] and [SEP] from the tokenizer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from rmbench.config import LengthPolicy
from rmbench.data.formats import Pair
from rmbench.data.groups import TokenGroup, TokenItem, TokenPair, common_prefix
from rmbench.data.items import Item
from rmbench.data.messages import Message
from rmbench.data.protocols import Tokenizer
from rmbench.data.reasons import check_some_left, listed, no_place, warn_of_cuts, why_equal
from rmbench.data.refused import accepted_by_template, with_every_field
from rmbench.data.rendering import left_out, render
from rmbench.errors import UserError

__all__ = ["TokenGroup", "TokenItem", "TokenPair", "common_prefix", "listed", "render"]

logger = logging.getLogger(__name__)

# Raise it when the same pairs, tokenizer and length policy give other ids, other pairs are left out,
# or the columns in `tokens` change.
VERSION = 2
CONTEXT_LIMIT_TOKENS = 2048
ENCODE_BATCH = 1024  # pairs

# For tokenizers that bring no template; saved with the checkpoint, so that whoever loads it renders the same text.
DEFAULT_TEMPLATE = (
    "{% if tools %}Tools: {{ tools | tojson }}\n\n{% endif %}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}{{ '\n' if message['content'] or not loop.first }}"
    "{{ (call['function'] or call) | tojson }}{% endfor %}"
    "{% if not loop.last %}\n\n{% endif %}"
    "{% endfor %}{% if eos_token is defined and eos_token %}{{ eos_token }}{% endif %}"
)


def encode(
    conversations: Sequence[list[Message]],
    tokenizer: Tokenizer,
    keep_doubled_bos: bool = False,
    template_kwargs: Sequence[Mapping[str, object]] = (),
) -> list[list[int]]:
    """Token ids of each conversation, special tokens included, uncut.

    Args:
        conversations: whole: a prompt with a response.
        tokenizer: with its chat template.
        keep_doubled_bos: leave the second BOS where template and tokenizer both write one, as RewardBench does.
        template_kwargs: as for `render`.

    Raises:
        jinja2.TemplateError: the tokenizer's template refuses a conversation (a system turn, say).
    """
    texts = render(conversations, tokenizer, template_kwargs)
    rows = tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if keep_doubled_bos or bos is None:
        return list(rows)
    return [ids[1:] if ids[:2] == [bos, bos] else ids for ids in rows]


def cut(ids: list[int], max_length: int, policy: LengthPolicy, special: frozenset[int]) -> list[int]:
    """At most `max_length` ids; a leading BOS or [CLS] and a trailing EOS or [SEP] always stay.

    `truncate_prompt_left` removes what follows the leading token, so the end of the response, where the reward is read,
    stays; `truncate_response` removes what precedes the trailing token.

    Args:
        ids: of a prompt with a response.
        max_length: in tokens.
        policy: which end is cut.
        special: ids of special tokens, which stay at both ends.
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
    tokenizer: Tokenizer,
    max_length: int,
    policy: LengthPolicy = LengthPolicy.truncate_prompt_left,
    *,
    name: str = "pairs",
    drop_identical: bool = False,
    drop_refused: bool = False,
) -> tuple[list[TokenPair], Counter[str]]:
    """Token ids of every pair within `max_length`, and how many pairs were dropped or cut under which rule.

    Args:
        pairs: in the order in which they are kept.
        tokenizer: with a chat template.
        max_length, policy, drop_identical, drop_refused: as in `TokenRules`.
        name: of the pairs, in log lines and errors.

    Raises:
        UserError: the chat template refuses a conversation (unless `drop_refused`), or no pair is left.
    """
    counts: Counter[str] = Counter()
    rules = TokenRules(max_length, policy, drop_identical, drop_refused)
    kept = [pair for _, pair in token_pairs(pairs, tokenizer, rules, counts)]
    logger.info("%s: %d pairs, at most %d tokens%s", name, len(kept), max_length, listed(counts))
    check_some_left(len(kept), len(pairs), name, counts)
    warn_of_cuts(name, counts, len(pairs), max_length)
    return kept, counts


@dataclass(frozen=True)
class TokenRules:
    """Which pairs are cut and which are left out.

    Args:
        max_length: tokens of a response with its prompt.
        policy: what happens to a longer one.
        drop_identical: leave out pairs with equal ids: for training, where they teach nothing; evaluation keeps them as
            ties.
        drop_refused: leave out pairs that the chat template refuses; otherwise the first one ends the run.
    """

    max_length: int
    policy: LengthPolicy
    drop_identical: bool = False
    drop_refused: bool = False


def token_pairs(
    pairs: Sequence[Pair], tokenizer: Tokenizer, rules: TokenRules, counts: Counter[str]
) -> Iterator[tuple[int, TokenPair]]:
    """One pair after the other with its place in `pairs`, `ENCODE_BATCH` of them in memory.

    Args:
        pairs: in the order in which they are yielded.
        tokenizer: with its chat template.
        rules: which are cut and which are left out.
        counts: rule -> how many pairs; filled.

    Raises:
        UserError: the chat template refuses a conversation (unless `drop_refused`).
    """
    special = frozenset(tokenizer.all_special_ids)
    max_length, policy = rules.max_length, rules.policy
    for start in range(0, len(pairs), ENCODE_BATCH):
        batch = list(enumerate(pairs[start : start + ENCODE_BATCH], start))
        try:
            batch = with_every_field(batch, tokenizer, rules.drop_refused, counts)
            ids = _encode_sides(batch, tokenizer)
        except jinja2.TemplateError:  # rare: only then is each conversation rendered by itself
            batch = accepted_by_template(batch, tokenizer, rules.drop_refused, counts)
            batch = with_every_field(batch, tokenizer, rules.drop_refused, counts)
            ids = _encode_sides(batch, tokenizer)
        for (place, pair), chosen, rejected in zip(batch, ids[::2], ids[1::2], strict=True):
            if max(len(chosen), len(rejected)) > max_length:
                if policy is LengthPolicy.drop:
                    counts["dropped: longer than max_length"] += 1
                    continue
                counts[f"cut ({policy.name})"] += 1
            row = TokenPair(pair, cut(chosen, max_length, policy, special), cut(rejected, max_length, policy, special))
            if row.identical:
                counts[f"{'dropped' if rules.drop_identical else 'ties'}: {why_equal(pair, chosen == rejected)}"] += 1
                if rules.drop_identical:
                    continue
            yield place, row


def tokenize_items(
    items: Sequence[Item], tokenizer: Tokenizer, max_length: int, name: str, keep_doubled_bos: bool = False
) -> tuple[list[TokenItem], Counter[str]]:
    """Token ids of every item, in order, and to how many a rule was applied; nothing is dropped.

    Args:
        items: of a benchmark.
        tokenizer: with its chat template.
        max_length: in tokens; a longer text loses what follows its first token, so the end of the response stays.
        name: of the items, in log lines.
        keep_doubled_bos: as for `encode`.

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
            same_ids, same_text = (all(one == all_of[0] for one in all_of) for all_of in (uncut, item.responses))
            why = "equal text" if same_text else "equal token ids" if same_ids else "equal after truncation"
            counts[f"ties: {why}"] += 1
        rows.append(row)
    logger.info("%s: %d items, at most %d tokens%s", name, len(rows), max_length, listed(counts))
    warn_of_cuts(name, counts, len(items), max_length)
    return rows, counts


def _encode_items(items: Sequence[Item], tokenizer: Tokenizer, keep_doubled_bos: bool) -> list[list[int]]:
    """Token ids of all responses of all items; one by one only to find a conversation that the template refuses."""
    conversations = [[[*item.prompt, *response] for response in item.responses] for item in items]
    given = [item.template_kwargs for item in items for _ in item.responses]
    try:
        _refuse_lost(items, conversations, tokenizer)
        return encode([c for of_item in conversations for c in of_item], tokenizer, keep_doubled_bos, given)
    except jinja2.TemplateError:
        for item, of_item in zip(items, conversations, strict=True):
            try:
                encode(of_item, tokenizer, False, [item.template_kwargs] * len(of_item))
            except jinja2.TemplateError as error:
                raise UserError(
                    f"item {item.id!r}: the tokenizer's chat template refuses this conversation: {error}"
                ) from error
        raise


def _refuse_lost(items: Sequence[Item], conversations: Sequence[list[list[Message]]], tokenizer: Tokenizer) -> None:
    for item, of_item in zip(items, conversations, strict=True):
        lost = next((out.lost for c in of_item if (out := left_out(c, tokenizer, item.template_kwargs)).lost), None)
        if lost:
            raise UserError(f"item {item.id!r}: {no_place(lost)}")


def context_length(tokenizer: Tokenizer, config: Any) -> int | None:
    """Tokens that the model can take, or None if neither the tokenizer nor the config states it."""
    stated = [getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    return min((int(n) for n in stated if n is not None and 0 < n < 10**9), default=None)


def resolve_max_length(asked: int | None, tokenizer: Tokenizer, config: object, key: str) -> int:
    """`asked`, or min(model's context, 2048).

    Args:
        asked: by the config; None for the default.
        tokenizer: may state a limit.
        config: of the model, which may state one too.
        key: the config key, for the message.

    Raises:
        UserError: the model's context is shorter than `asked`.
    """
    context = context_length(tokenizer, config)
    if asked is None:
        return min(context or CONTEXT_LIMIT_TOKENS, CONTEXT_LIMIT_TOKENS)
    if context is not None and asked > context:
        raise UserError(f"{key}={asked}: the model takes at most {context} tokens; choose {key}={context} or less.")
    return asked


def _encode_sides(batch: Sequence[tuple[int, Pair]], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of the first pair's chosen, its rejected, the second pair's chosen, ..."""
    if not batch:
        return []
    conversations = [[*pair.prompt, *side] for _, pair in batch for side in (pair.chosen, pair.rejected)]
    given = [pair.template_kwargs for _, pair in batch for _ in range(2)]
    return encode(conversations, tokenizer, template_kwargs=given)
