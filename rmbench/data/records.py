"""Rows with their places -> pairs; what is left out is counted by rule: rows read = pairs used + rows dropped."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from rmbench.config import OnBadRow, OnTie
from rmbench.data.formats import Pair, is_empty, parse_row
from rmbench.data.messages import BadRow, NoPreference, Row
from rmbench.data.published import as_it_is
from rmbench.data.rowfiles import Placed
from rmbench.data.store import unique_ids
from rmbench.errors import UserError

log = logging.getLogger(__name__)

# Raise it when a row becomes another pair, or is left out by another rule: here, in `rowfiles` (files -> rows),
# `published` (rows of published sets), `formats` and `messages` (row -> pair).
VERSION = 1

Dropped = dict[str, int]


def load_pairs(
    rows: Iterable[Placed],
    name: str,
    source: str = "",
    on_bad_row: OnBadRow = OnBadRow.error,
    for_training: bool = True,
) -> tuple[list[Pair], Dropped]:
    """Rows of any form -> pairs, and how many rows were dropped by which rule; used + dropped = rows read.

    Args:
        rows: rows with their places, as `read_rows` gives them.
        name: what the rows are, for messages.
        source: the source of pairs that name none; `name` if empty.
        on_bad_row: whether a row that fits no form ends the job or is counted.
        for_training: drop pairs that teach nothing (identical or empty responses). A benchmark keeps them.

    Raises:
        UserError: a malformed row under `on_bad_row=error`, or no pair left.
    """
    dropped: Dropped = {}
    numbered = list(read_pairs(rows, name, dropped, source or name, on_bad_row, for_training=for_training))
    ids = unique_ids([pair.id for _, pair in numbered], [number for number, _ in numbered])
    return [replace(pair, id=own) for (_, pair), own in zip(numbered, ids, strict=True)], dropped


def read_pairs(
    rows: Iterable[Placed],
    name: str,
    dropped: Dropped,
    source: str,
    on_bad_row: OnBadRow,
    read: Callable[[Row], Row] = as_it_is,
    for_training: bool = True,
    on_tie: OnTie = OnTie.keep,
) -> Iterator[tuple[int, Pair]]:
    """One pair after the other with the number of its row (from 1), ids as the rows have them.

    Args:
        rows, name, source, on_bad_row, for_training: as for `load_pairs`.
        on_tie: whether a pair with a rating margin of 0 is used.
        dropped: receives how many rows were left out by which rule.
        read: turns a row as published into one that `parse_row` knows.

    Raises:
        UserError: as `load_pairs`.
    """
    counts: Counter[str] = Counter()
    n_read = n_used = 0
    for n_read, (place, row) in enumerate(rows, start=1):
        try:
            pair = _pair(row, read, source)
        except NoPreference as none:
            counts[none.rule] += 1
            continue
        except BadRow as bad:
            if on_bad_row is OnBadRow.error:
                hint = "\nMend the row, or leave such rows out: dataset.on_bad_row=drop" if for_training else ""
                raise UserError(f"{place}: {bad}.{hint}") from bad
            counts[bad.rule] += 1
            continue
        useless = _useless(pair, on_tie) if for_training else None
        if useless:
            counts[useless] += 1
        else:
            n_used += 1
            yield n_read, pair
    assert n_read == n_used + counts.total()
    listed = ", ".join(f"{count} {rule}" for rule, count in sorted(counts.items())) or "none"
    log.info("%s: %d rows read, %d pairs used, dropped: %s", name, n_read, n_used, listed)
    if not n_used:
        raise UserError(f"{name}: no pair left of {n_read} rows; dropped: {listed}.")
    dropped.update(counts)


def _pair(row: Row | BadRow, read: Callable[[Row], Row], source: str) -> Pair:
    if isinstance(row, BadRow):
        raise row
    return parse_row(read(row), source)


def _useless(pair: Pair, on_tie: OnTie) -> str | None:
    if on_tie is OnTie.drop and pair.rating_margin == 0:
        return "tie"
    if is_empty(pair.chosen) or is_empty(pair.rejected):
        return "empty_response"
    return "identical" if pair.chosen == pair.rejected else None
