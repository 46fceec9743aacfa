"""Pairs in a memory-mapped Arrow file: a sequence of `Pair` that takes no memory, however long it is.

The messages of a side are kept as JSON text: Arrow's own nested lists are several times slower to read back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
import pyarrow as pa

from rmbench.data.cache import Entry
from rmbench.data.formats import Pair

# Raise it when the same pairs give other files: columns, JSON of a side, digests, rules for ids.
VERSION = 2
BATCH = 1024  # rows of each record batch but the last
DIGEST_BYTES = 16
SIDES = ("prompt", "chosen", "rejected")
PAIRS = pa.schema(
    [
        *((side, pa.string()) for side in SIDES),
        ("rating_margin", pa.float64()),
        ("source", pa.string()),
        ("section", pa.string()),
        ("template_kwargs", pa.string()),
        ("prompt_digest", pa.binary(DIGEST_BYTES)),
        ("digest", pa.binary(DIGEST_BYTES)),
    ]
)
IDS = pa.schema([("id", pa.string())])


class ArrowWriter:
    """Rows into an Arrow file, in record batches of `BATCH` rows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._file = schema, pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)
        self._rows: list[tuple[object, ...]] = []

    def __enter__(self) -> ArrowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()
        self._file.close()

    def add(self, *row: object) -> None:
        """One row, in the order of the schema."""
        self._rows.append(row)
        if len(self._rows) == BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [pa.array(c, field.type) for c, field in zip(zip(*self._rows), self._schema, strict=True)]  # noqa: B905
            self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
            self._rows = []


class ArrowRows:
    """The rows that an `ArrowWriter` wrote, memory-mapped."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._table = pa.Table.from_batches(self._batches, reader.schema)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        return self._table.column(name)

    def row(self, index: int) -> pa.RecordBatch:
        """One row, as a record batch of length 1."""
        batch, place = divmod(index, BATCH)
        return self._batches[batch].slice(place, 1)

    def blocks(self, rows: np.ndarray) -> Iterator[pa.RecordBatch]:
        """The rows with these indices, in this order; as many at a time as are in one record batch."""
        batches = rows // BATCH
        for part in np.split(rows, np.flatnonzero(np.diff(batches)) + 1):
            if len(part):
                yield self._batches[part[0] // BATCH].take(pa.array(part % BATCH))


class PairTable(Sequence[Pair]):
    """A sequence of pairs from a folder that `write_pairs` filled, in any order."""

    def __init__(self, entry: Entry | Path, rows: np.ndarray | None = None) -> None:
        self._entry = entry
        folder = entry.path if isinstance(entry, Entry) else entry
        self._records, self._ids = ArrowRows(folder / "pairs.arrow"), ArrowRows(folder / "ids.arrow")
        self.rows = np.arange(len(self._records)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> PairTable: ...
    def __getitem__(self, index: int | slice) -> Pair | PairTable:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = int(self.rows[index])
        return next(_pairs(self._records.row(row), self._ids.row(row)))

    def __iter__(self) -> Iterator[Pair]:
        for records, ids in zip(self._records.blocks(self.rows), self._ids.blocks(self.rows), strict=True):
            yield from _pairs(records, ids)

    def __eq__(self, other: object) -> bool:
        same_length = isinstance(other, Sequence) and len(self) == len(other)
        return same_length and all(a == b for a, b in zip(self, other, strict=True))  # type: ignore[call-overload]

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[object, ...]:
        return PairTable, (self._entry, self.rows)

    def take(self, places: np.ndarray) -> PairTable:
        """The pairs at these places of this sequence."""
        return PairTable(self._entry, self.rows[places])

    def column(self, name: str) -> list[Any]:
        """The values of one column of `PAIRS` or `IDS`, in the order of the pairs."""
        stored = self._ids if name == "id" else self._records
        return stored.column(name).take(pa.array(self.rows)).to_pylist()


def write_pairs(folder: Path, pairs: Iterable[tuple[int, Pair]]) -> None:
    """Pairs into `folder`, each with the number of the row that it came from; ids are made unique."""
    names, numbers = [], []
    with ArrowWriter(folder / "pairs.arrow", PAIRS) as writer:
        for number, pair in pairs:
            names.append(pair.id)
            numbers.append(number)
            sides = side_texts(pair)
            facts = (pair.rating_margin, pair.source, pair.section)
            given = _given(pair)
            prompt, whole = _hash(sides[0], *given), _hash(*sides, json.dumps(facts), *given)
            writer.add(*sides, *facts, given[0] if given else None, prompt, whole)
    with ArrowWriter(folder / "ids.arrow", IDS) as writer:
        for name in unique_ids(names, numbers):
            writer.add(name)


def unique_ids(names: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """A row keeps an id of its own that no other row has; the rest go by their row number."""
    count: dict[str, int] = {}
    for name in names:
        count[name] = count.get(name, 0) + 1
    taken = set(count)
    unique = []
    for name, number in zip(names, numbers, strict=True):
        if not name or count[name] > 1:
            name = str(number)
            while name in taken:
                name = f"row-{name}"
            taken.add(name)
        unique.append(name)
    return unique


def side_texts(pair: Pair) -> list[str]:
    """prompt, chosen and rejected as JSON; equal texts are equal messages."""
    return [json.dumps(side, ensure_ascii=False) for side in (pair.prompt, pair.chosen, pair.rejected)]


def prompt_digests(pairs: Sequence[Pair]) -> list[bytes]:
    """A hash of each pair's prompt."""
    if isinstance(pairs, PairTable):
        return pairs.column("prompt_digest")
    return [_hash(side_texts(pair)[0], *_given(pair)) for pair in pairs]


def digests(pairs: Sequence[Pair]) -> list[bytes]:
    """A hash of all that each pair says; its id is only a name."""
    if isinstance(pairs, PairTable):
        return pairs.column("digest")
    facts = ((pair.rating_margin, pair.source, pair.section) for pair in pairs)
    return [_hash(*side_texts(p), json.dumps(fact), *_given(p)) for p, fact in zip(pairs, facts, strict=True)]


def fingerprint(*splits: Sequence[Pair]) -> str:
    """SHA-256 over all that the pairs of each split say, in order."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(b"split\n")
        for one in digests(split):
            digest.update(one)
    return digest.hexdigest()


def _pairs(records: pa.RecordBatch, ids: pa.RecordBatch) -> Iterator[Pair]:
    names = ids.column(0).to_pylist()
    stored = (*SIDES, "rating_margin", "source", "section", "template_kwargs")
    columns = [records.column(name).to_pylist() for name in stored]
    for *sides, margin, source, section, given, name in zip(*columns, names, strict=True):
        prompt, chosen, rejected = map(json.loads, sides)
        yield Pair(prompt, chosen, rejected, margin, source, section, name, json.loads(given) if given else {})


def _given(pair: Pair) -> list[str]:
    """The pair's arguments for the chat template, as JSON; empty for most, whose hashes are of their messages only."""
    return [json.dumps(pair.template_kwargs, ensure_ascii=False)] if pair.template_kwargs else []


def _hash(*texts: str) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for text in texts:
        digest.update(text.encode() + b"\n")  # JSON has no line break of its own
    return digest.digest()
