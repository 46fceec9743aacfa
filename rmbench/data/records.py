"""Rows with their places -> pairs; what is left out is counted by rule: rows read = rows used + rows dropped."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from rmbench.config import OnBadRow, OnTie, Ranked
from rmbench.data.formats import COLUMNS, Pair, is_empty, parse_row
from rmbench.data.messages import BadRow, NoPreference, Row
from rmbench.data.published import as_it_is
from rmbench.data.ranking import Responses, check_order, is_ranking, is_single, pairs_of, parse_ranking, parse_single
from rmbench.data.rowfiles import Placed
from rmbench.data.store import unique_ids
from rmbench.errors import UserError
from rmbench.files import Json

log = logging.getLogger(__name__)

# Raise it when a row becomes another pair, or is left out by another rule: here, in `rowfiles`, `csvfiles` and
# `arrowfiles` (files -> rows), `published` (rows of published sets), `formats`, `messages` and `ranking` (row -> pair).
VERSION = 5

Dropped = dict[str, int]
_MOST_NAMES = 8  # of columns in a message


@dataclass(frozen=True)
class Rules:
    """How rows are read.

    Args:
        on_bad_row: whether a row that fits no form ends the job or is counted.
        on_tie: whether a pair with a rating margin of 0 is used.
        ranked: which pairs are made of several responses to one prompt.
        for_training: drop pairs that teach nothing (identical or empty responses). A benchmark keeps them.
        read: turns a row as published into one that is known.
    """

    on_bad_row: OnBadRow = OnBadRow.error
    on_tie: OnTie = OnTie.keep
    ranked: Ranked = Ranked.best_worst
    for_training: bool = True
    read: Callable[[Row], Row] = as_it_is


@dataclass
class Tally:
    """Counts of reading: rows = rows used + rows dropped. The others are of rows that are not pairs.

    `comparisons` are those of two responses to one prompt that made no pair, by rule: ties, and equal or empty ones.
    `unread` counts rows by the columns that no form reads.
    """

    rows: int = 0
    used: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    prompts: int = 0
    responses: int = 0
    comparisons: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_dict(cls, stored: Json) -> Tally:
        """The tally from what `as_dict` returned."""
        counters: Json = {name: Counter(stored[name]) for name in ("dropped", "comparisons", "unread")}
        return cls(**(stored | counters))

    def as_dict(self) -> Json:
        """The tally as a dict for JSON."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    def report(self, name: str, ranked: Ranked) -> None:
        """Log it."""
        rows, pairs = counted(self.rows, "row"), counted(self.pairs, "pair")
        log.info("%s: %s read, %s used, dropped: %s", name, rows, pairs, listed(self.dropped))
        if self.unread:
            names = [name for name, _ in self.unread.most_common(_MOST_NAMES)]
            more = f" and {len(self.unread) - _MOST_NAMES} more" if len(self.unread) > _MOST_NAMES else ""
            log.info("%s: columns not read: %s%s", name, ", ".join(names), more)
        if self.prompts:
            log.info(
                "%s: %d prompts with %d responses, pairs by dataset.ranked=%s; compared without a pair: %s;"
                " rows whose prompt has one side only: %d",
                name, self.prompts, self.responses, ranked.name, listed(self.comparisons),
                self.dropped["one_side_only"],
            )  # fmt: skip


def unread(row: Row) -> list[str]:
    """The columns of a row that no form reads.

    >>> unread({"prompt": "a", "context": "b", "chosen": "c", "rejected": "d", "language": "en"})
    ['context', 'language']
    """
    return [name for name in row if name not in COLUMNS or (name == "context" and "prompt" in row)]


def counted(n: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is 1.

    >>> counted(1, "row"), counted(2, "row")
    ('1 row', '2 rows')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"


def listed(counts: Counter[str]) -> str:
    """Counts by rule as text, such as: 3 tie, 1 identical."""
    return ", ".join(f"{count} {rule}" for rule, count in sorted(counts.items())) or "none"


def load_pairs(
    rows: Iterable[Placed],
    name: str,
    source: str = "",
    on_bad_row: OnBadRow = OnBadRow.error,
    for_training: bool = True,
) -> tuple[list[Pair], Dropped]:
    """Rows of any form -> pairs, and how many rows were dropped by which rule.

    Args:
        rows: rows with their places, as `read_rows` gives them.
        name: what the rows are, for messages.
        source: the source of pairs that name none; `name` if empty.
        on_bad_row, for_training: as in `Rules`.

    Raises:
        UserError: a malformed row under `on_bad_row=error`, or no pair left.
    """
    tally = Tally()
    rules = Rules(on_bad_row, for_training=for_training)
    numbered = list(read_pairs(rows, name, source or name, rules, tally))
    ids = unique_ids([pair.id for _, pair in numbered], [number for number, _ in numbered])
    return [replace(pair, id=own) for (_, pair), own in zip(numbered, ids, strict=True)], dict(tally.dropped)


def read_pairs(
    rows: Iterable[Placed], name: str, source: str, rules: Rules, tally: Tally
) -> Iterator[tuple[int, Pair]]:
    """One pair after the other with the number of its row (from 1), ids as the rows have them.

    Rows of one response are kept in memory until the last row; their pairs come at the end.

    Args:
        rows, name, source: as for `load_pairs`.
        rules: what is left out, and which pairs are made of several responses.
        tally: receives what is counted.

    Raises:
        UserError: a malformed row under `on_bad_row=error`, or no pair left.
    """
    singles: dict[str, Responses] = {}
    for tally.rows, (place, row) in enumerate(rows, start=1):
        try:
            if isinstance(row, BadRow):
                raise row
            row = rules.read(row)
            tally.unread.update(unread(row))
            if is_single(row):
                one = parse_single(row, source, tally.rows)
                singles.setdefault(one.key, replace(one, responses=[])).responses.extend(one.responses)
                continue
            made = _of_ranking(row, source, rules, tally) if is_ranking(row) else [parse_row(row, source)]
        except NoPreference as none:
            tally.dropped[none.rule] += 1
            continue
        except BadRow as bad:
            _leave_out(bad, place, rules)
            tally.dropped[bad.rule] += 1
            continue
        kept = made if len(made) > 1 else [pair for pair in made if not _counted_out(pair, rules, tally)]
        tally.used += bool(kept)
        tally.pairs += len(kept)
        for pair in kept:
            yield tally.rows, pair
    for group in singles.values():
        try:
            check_order(group)
        except BadRow as bad:
            _leave_out(bad, name, rules)
            tally.dropped[bad.rule] += len(group.responses)
            continue
        for number, pair in _of_singles(group, rules, tally):
            tally.pairs += 1
            yield number, pair
    assert tally.rows == tally.used + tally.dropped.total()
    tally.report(name, rules.ranked)
    if not tally.pairs:
        raise UserError(f"{name}: no pair left of {tally.rows} rows; dropped: {listed(tally.dropped)}.")


def _leave_out(bad: BadRow, place: str, rules: Rules) -> None:
    """Nothing under `on_bad_row=drop`.

    Raises:
        UserError: with the reason and the way out.
    """
    if rules.on_bad_row is OnBadRow.error:
        hint = "\nFix the row, or leave such rows out: dataset.on_bad_row=drop" if rules.for_training else ""
        raise UserError(f"{place}: {bad}.{hint}") from bad


def _of_ranking(row: Row, source: str, rules: Rules, tally: Tally) -> list[Pair]:
    """The pairs of a row with several responses; one without any is dropped, under the rule that left the first out.

    Args:
        row: as it was read.
        source: where it comes from.
        rules: which pairs are useful, and which of a ranking are taken.
        tally: counts prompts, responses and comparisons that are left out.
    """
    group = parse_ranking(row, source)
    tally.prompts += 1
    tally.responses += len(group.responses)
    pairs, left_out = [], []
    for *_, pair in pairs_of(group, rules.ranked):
        rule = "tie" if pair is None else _useless(pair, rules)
        if pair is None or rule:
            left_out.append(rule or "")
        else:
            pairs.append(pair)
    tally.comparisons.update(left_out)
    if not pairs:
        raise NoPreference(left_out[0], "no two of its responses differ")
    own = labels_id(row)
    if len(pairs) == 1:
        return [replace(pairs[0], id=own)]
    return [replace(pair, id=f"{own or f'row-{tally.rows}'}/{pair.id}") for pair in pairs]


def labels_id(row: Row) -> str:
    """The row's own id, "" without one."""
    return "" if row.get("id") is None else str(row["id"])


def _of_singles(group: Responses, rules: Rules, tally: Tally) -> Iterator[tuple[int, Pair]]:
    """The pairs of rows with one response each, and the row number of the better one."""
    tally.prompts += 1
    tally.responses += len(group.responses)
    used: set[int] = set()
    left_out: dict[int, str] = {}
    for better, worse, pair in pairs_of(group, rules.ranked):
        rule = "tie" if pair is None else _useless(pair, rules)
        if pair is None or rule:
            tally.comparisons[rule or ""] += 1
            left_out |= dict.fromkeys((better.number, worse.number), rule or "")
        else:
            used |= {better.number, worse.number}
            yield better.number, pair
    tally.used += len(used)
    alike = len({response.rating for response in group.responses}) == 1
    one_side = "tie" if group.has_gaps and len(group.responses) > 1 else "one_side_only"
    for response in group.responses:
        if response.number not in used:
            tally.dropped[one_side if alike else left_out.get(response.number, "not_paired")] += 1


def _counted_out(pair: Pair, rules: Rules, tally: Tally) -> bool:
    rule = _useless(pair, rules)
    if rule:
        tally.dropped[rule] += 1
    return rule is not None


def _useless(pair: Pair, rules: Rules) -> str | None:
    if not rules.for_training:
        return None
    if rules.on_tie is OnTie.drop and pair.rating_margin == 0:
        return "tie"
    if is_empty(pair.chosen) or is_empty(pair.rejected):
        return "empty_response"
    return "identical" if pair.chosen == pair.rejected else None
