"""Pairs that a chat template cannot render, or not whole: the first ends the run, or all are dropped and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import jinja2

from rmbench.data.formats import Pair
from rmbench.data.protocols import Tokenizer
from rmbench.data.reasons import no_place
from rmbench.data.rendering import left_out, plain, render
from rmbench.errors import UserError


def lost_fields(pair: Pair, tokenizer: Tokenizer) -> list[str]:
    """Fields of a pair's messages, `tools` among them, for which the template has no place.

    Raises:
        jinja2.TemplateError: the template refuses one of the conversations.
    """
    sides = ([*pair.prompt, *side] for side in (pair.chosen, pair.rejected))
    return list(dict.fromkeys(name for c in sides for name in left_out(c, tokenizer, pair.template_kwargs).lost))


def with_every_field(
    batch: Sequence[tuple[int, Pair]], tokenizer: Tokenizer, drop_refused: bool, counts: Counter[str]
) -> list[tuple[int, Pair]]:
    """The pairs, with their indices, whose fields the template renders; the others are refused or counted.

    Args:
        batch: pairs with their places.
        tokenizer: with the chat template.
        drop_refused: count and leave out, instead of ending the run.
        counts: rule -> how many pairs; added to.
    """
    whole, without = [], Counter[str]()
    for place, pair in batch:
        lost = lost_fields(pair, tokenizer)
        if not lost:
            whole.append((place, pair))
        elif drop_refused:
            rest = ", and the rest is equal text" if plain(pair.chosen) == plain(pair.rejected) else ""
            without[f"dropped: the chat template has no place for {', '.join(lost)}{rest}"] += 1
        else:
            rest = "\nWithout it both sides have the same text." if plain(pair.chosen) == plain(pair.rejected) else ""
            drop = "dataset.on_bad_row=drop drops such pairs and counts them."
            raise UserError(f"pair {pair.id!r}: {no_place(lost)}{rest}\n{drop}")
    counts.update(without)
    return whole


def accepted_by_template(
    batch: Sequence[tuple[int, Pair]], tokenizer: Tokenizer, drop_refused: bool, counts: Counter[str]
) -> list[tuple[int, Pair]]:
    """The pairs, with their indices, whose conversations the template renders; the others are refused or counted.

    Args:
        batch: pairs with their places.
        tokenizer: with the chat template.
        drop_refused: count and leave out, instead of ending the run.
        counts: rule -> how many pairs; added to.
    """
    accepted = []
    for place, pair in batch:
        try:
            sides = [[*pair.prompt, *pair.chosen], [*pair.prompt, *pair.rejected]]
            render(sides, tokenizer, [pair.template_kwargs] * 2)
            accepted.append((place, pair))
        except jinja2.TemplateError as error:
            if not drop_refused:
                raise UserError(
                    f"pair {pair.id!r}: the tokenizer's chat template refuses this conversation: {error}\n"
                    "dataset.on_bad_row=drop drops such pairs and counts them."
                ) from error
            counts["dropped: refused by the chat template"] += 1
    return accepted
