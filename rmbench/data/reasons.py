"""Why pairs were left out, cut or tied when they became token ids, and what keeps them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from rmbench.data.formats import Pair
from rmbench.data.messages import PLAIN
from rmbench.data.rendering import plain
from rmbench.errors import UserError

logger = logging.getLogger(__name__)

HEAVY_CUT_SHARE = 0.2  # of pairs or items that are longer than max_length: from here on it is a warning
_REMEDIES = {
    "max_length": "A larger max_length or another length_policy keeps more.",
    "truncation": "A larger max_length or another length_policy tells the sides apart.",
    "refused by the chat template": "Write the turns in an order that the template takes, or choose another backbone.",
    "no place for": "Remove these fields from the messages, or choose a backbone whose chat template renders them.",
    "token ids": "This tokenizer does not see what tells the sides apart; another backbone may.",
    "is not rendered": "The chat template leaves out what tells the sides apart; write it into the content.",
    ": equal text": "Both sides of these pairs have the same text.",
}


def why_equal(pair: Pair, before_the_cut: bool) -> str:
    """The reason why both sides of a pair are equal; `before_the_cut`: their uncut ids are."""
    if not before_the_cut:
        return "equal after truncation"
    if pair.chosen == pair.rejected:
        return "equal text"
    if plain(pair.chosen) == plain(pair.rejected):
        return f"equal once {_fields_of(pair)} is not rendered"
    return "equal token ids"


def _fields_of(pair: Pair) -> str:
    """The fields in which the sides have more than role and content."""
    names = (name for message in (*pair.chosen, *pair.rejected) for name in message if name not in PLAIN)
    return ", ".join(dict.fromkeys(names))


def check_some_left(n_kept: int, n_pairs: int, name: str, counts: Counter[str]) -> None:
    """Refuse to go on without any pair.

    Args:
        n_kept, n_pairs: after and before.
        name: of the pairs, for the message.
        counts: what was dropped, by reason.

    Raises:
        UserError: `n_kept` is 0.
    """
    if n_kept:
        return
    remedies = [remedy for reason, remedy in _REMEDIES.items() if any(reason in rule for rule in counts)]
    what = f"{name}: none of {n_pairs} pairs is left after tokenising{listed(counts)}."
    raise UserError("\n".join([what, *remedies]))


def warn_of_cuts(name: str, counts: Counter[str], n: int, max_length: int) -> None:
    """Say it loudly where many of `n` pairs or items are longer than `max_length`.

    Args:
        name: of the pairs or items, for the message.
        counts: what was cut or dropped, by reason.
        n: how many there are.
        max_length: tokens.
    """
    n_long = sum(number for rule, number in counts.items() if rule.startswith("cut (") or "max_length" in rule)
    if n_long >= HEAVY_CUT_SHARE * n > 0:
        what = "cut" if any(rule.startswith("cut (") for rule in counts) else "dropped"
        logger.warning(
            "%s: %d of %d are longer than %d tokens and %s; a larger max_length keeps more.",
            name, n_long, n, max_length, what,
        )  # fmt: skip


def no_place(lost: Sequence[str]) -> str:
    """The message about fields that the chat template would leave out."""
    return (
        f"the tokenizer's chat template has no place for {', '.join(lost)}, which would be lost.\n"
        "Remove the field, or write it into the content; a backbone whose template renders it reads it."
    )


def listed(counts: Counter[str]) -> str:
    """The counts as they end a log line."""
    return "".join(f"; {rule}: {n}" for rule, n in sorted(counts.items()))
