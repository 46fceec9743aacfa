"""csv, read strictly: a quote that is never closed costs its own row, and the rows after it stay rows."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
from collections import deque
from collections.abc import Iterator
from typing import IO

from rmbench.data.formats import FLAGS, NESTED, NUMBERS
from rmbench.data.messages import BadRow, Row
from rmbench.errors import UserError

log = logging.getLogger(__name__)

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def csv_rows(file: IO[bytes], name: str) -> Iterator[Row | BadRow]:
    """The rows of an open file below its first line, which names the columns; blank lines are none.

    Raises:
        UserError: the first line cannot be read, or names a column twice.
    """
    csv.field_size_limit(2**31 - 1)  # Python's own limit, 131,072 characters, is below a long conversation
    with io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as text:
        first = next((line for line in text if line.strip()), "")
        separator = _separator(first)
        if separator != ",":
            log.info("%s: cells are separated by %s.", name, SEPARATORS[separator])
        rows = _records(itertools.chain([first], text), separator)
        header = next(rows, [])
        if isinstance(header, BadRow):
            raise UserError(f"{name}: the first line, which names the columns, is not readable as csv: {header}.")
        if len(set(header)) < len(header):
            raise UserError(f"{name}: a column appears twice in the first line: {', '.join(header)}")
        for cells in rows:
            yield cells if isinstance(cells, BadRow) else _row(header, cells)


class _Lines:
    """Lines for `csv.reader`; those of the record that is being read can be given back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self._given_back = lines, deque[str]()
        self.record: list[str] = []
        self.number = 1  # of the record's first line

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.record.append(self._given_back.popleft() if self._given_back else next(self._lines))
        return self.record[-1]

    def next_record(self) -> None:
        """Mark that the next line begins another record."""
        self.number += len(self.record)
        self.record.clear()

    def keep_first(self) -> None:
        """Give back all lines of this record but its first."""
        self._given_back.extendleft(reversed(self.record[1:]))
        del self.record[1:]


def _records(text: Iterator[str], separator: str) -> Iterator[list[str] | BadRow]:
    """The cells of each record. A line at which no record can be read is a `BadRow`; the next line starts afresh.

    So is one whose quote is closed lines later, where that makes another number of cells than the first record has.
    """
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    width: int | None = None
    while True:
        lines.next_record()
        wrong = ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            wrong = str(error)
            reader = csv.reader(lines, delimiter=separator, strict=True)
        if wrong or (len(lines.record) > 1 and width not in (None, len(cells))):
            opened = len(lines.record) > 1 or "unexpected end" in wrong
            what = "a quote is opened and not closed as csv has it" if opened else wrong
            yield BadRow("unreadable", f"line {lines.number}: {what}")
            lines.keep_first()
        elif cells:
            width = len(cells) if width is None else width
            yield cells


def _separator(first: str) -> str:
    """The one that cuts the first line into the most cells; a comma among equals."""
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([first], delimiter=separator), [])))


def _row(header: list[str], cells: list[str]) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow("unreadable", f"{len(cells)} cells under {len(header)} columns")
    return {column: _cell(column, cell) for column, cell in zip(header, cells, strict=True)}


def _cell(column: str, cell: str) -> object:
    """csv has only text: lists are known by their JSON form, numbers by their column; an empty number is null."""
    if column in NUMBERS:
        return _number(cell) if cell.strip() else None
    if column in FLAGS and cell.strip().casefold() in ("true", "false", "1", "0"):
        return cell.strip().casefold() in ("true", "1")
    start = cell.lstrip()[:1]
    if start == "[" or (start == "{" and column in NESTED):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        messages = isinstance(value, list) and value and all(isinstance(m, dict) and "role" in m for m in value)
        return value if messages or column in NESTED else cell
    return cell


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell
