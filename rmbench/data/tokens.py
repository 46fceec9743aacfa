"""Token ids of pairs on disk: made once for the same pairs, tokenizer, template and length policy."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from rmbench.console import progress
from rmbench.data import store, text
from rmbench.data.cache import Cache, Entry, entry_name
from rmbench.data.formats import Pair
from rmbench.data.protocols import Tokenizer
from rmbench.data.reasons import check_some_left, listed, warn_of_cuts
from rmbench.data.store import ArrowRows, ArrowWriter, fingerprint
from rmbench.data.text import TokenPair, TokenRules, token_pairs

logger = logging.getLogger(__name__)

UNCUT = sys.maxsize  # as a `max_length`
TOKENS = pa.schema(
    [
        ("place", pa.int64()),
        ("chosen", pa.list_(pa.int32())),
        ("rejected", pa.list_(pa.int32())),
        ("length", pa.int32()),
    ]
)


class TokenTable(Sequence[TokenPair]):
    """Token ids in a memory-mapped Arrow file, each with its pair."""

    def __init__(self, entry: Entry, pairs: Sequence[Pair]) -> None:
        self._pairs, self._entry, self._rows = pairs, entry, ArrowRows(entry.path / "tokens.arrow")
        self.places = self._rows.column("place").to_numpy()  # in `pairs`: some were dropped
        self.lengths = self._rows.column("length").to_numpy()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenPair:  # type: ignore[override]
        row = self._rows.row(range(len(self))[index])
        chosen, rejected = (row.column(name)[0].values.to_numpy().tolist() for name in ("chosen", "rejected"))
        return TokenPair(self._pairs[int(self.places[index])], chosen, rejected)


def tokenized(
    pairs: Sequence[Pair], tokenizer: Tokenizer, rules: TokenRules, cache: Cache, *, name: str
) -> tuple[TokenTable, Counter[str]]:
    """`tokenize_pairs`, kept in `cache` and read from there if it was done before.

    Args:
        pairs: in the order in which they are kept.
        tokenizer: with a chat template.
        rules: what is cut and what is left out.
        cache: where the ids are kept.
        name: of the pairs, in log lines and errors.

    Raises:
        UserError: as `tokenize_pairs`.
    """

    def build(partial: Path) -> None:
        """Tokenise a batch after the other; the counts stand beside the ids."""
        counts: Counter[str] = Counter()
        kept = token_pairs(pairs, tokenizer, rules, counts)
        with (
            ArrowWriter(partial / "tokens.arrow", TOKENS) as writer,
            progress(f"tokenising {name}", len(pairs)) as advance,
        ):
            for place, pair in kept:
                writer.add(place, pair.chosen, pair.rejected, pair.length)
                if place % 1000 == 0:
                    advance(place)
        (partial / "counts.json").write_text(json.dumps(counts), encoding="utf-8")

    max_length = rules.max_length
    settings = [max_length, rules.policy.name, rules.drop_identical, rules.drop_refused]
    # All that the ids depend on; what is missing here would let a run read another tokenizer's ids.
    versions = [store.VERSION, text.VERSION]
    follows_from = [fingerprint(pairs), tokenizer_fingerprint(tokenizer), settings]
    entry = cache.entry(entry_name("tokens", versions, *follows_from), build)
    table, counts = TokenTable(entry, pairs), Counter(json.loads((entry.path / "counts.json").read_text("utf-8")))
    where = "" if entry.new else f", tokenised before, from {entry.path}"
    limit = "uncut" if max_length == UNCUT else f"at most {max_length} tokens"
    logger.info("%s: %d pairs, %s%s%s", name, len(table), limit, listed(counts), where)
    check_some_left(len(table), len(pairs), name, counts)
    warn_of_cuts(name, counts, len(pairs), max_length)
    return table, counts


def lengths(pairs: Sequence[TokenPair]) -> Sequence[int] | np.ndarray:
    """Tokens of the longer side of each pair, without reading the ids where a table knows them."""
    return pairs.lengths if isinstance(pairs, TokenTable) else [pair.length for pair in pairs]


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """A hash of vocabulary, rules, special tokens and template, and of the day if the template writes it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = _rules(backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab()))
    template = str(tokenizer.chat_template)
    today = date.today().isoformat() if depends_on_date(template) else ""
    special = {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())}
    content = json.dumps([type(tokenizer).__name__, rules, special, template, today], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=4)  # runs of a sweep have the same, and it is long
def _rules(rules_json: str) -> str:
    """A hash of a tokenizer's JSON, without what the last call left in it."""
    rules = json.loads(rules_json)
    for of_the_last_call in ("truncation", "padding"):
        rules.pop(of_the_last_call, None)
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def depends_on_date(template: str) -> bool:
    """Whether a template writes the day into the text, so that rewards change with the calendar."""
    return "strftime_now" in template
