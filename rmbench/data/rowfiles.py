"""Files of rows: jsonl, json, csv and parquet, the first three also gzipped. One row at a time, each with its place."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from rmbench.data.formats import RATINGS
from rmbench.data.messages import BadRow, Row
from rmbench.errors import UserError

Placed = tuple[str, Row | BadRow]
_NUMBERS = {column for columns in RATINGS for column in columns}


def read_rows(path: str | Path) -> Iterator[Placed]:
    """Every row of a file with its place, such as "pairs.jsonl line 7" or "pairs.csv row 7" (rows count from 1).

    A row that cannot be read comes as a `BadRow`, so that the caller decides whether it ends the job. Files are UTF-8,
    with or without a byte-order mark; blank lines are no rows.

    Raises:
        UserError: the file is missing, a folder, empty, of an unknown kind, or damaged as a whole.
    """
    path = Path(path).expanduser()
    reader = _READERS[_kind(path)]
    try:
        yield from reader(path)
    except (OSError, EOFError, zlib.error) as error:  # gzip's own errors are among these
        raise UserError(f"{path}: cannot be read: {error}") from error


def _kind(path: Path) -> str:
    """The suffix that names the reader, once the file is known to be one."""
    if not path.exists():
        raise UserError(f"{path}: no such file.{_close_names(path)}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it.{_data_files(path)}")
    suffixes = path.suffixes[-2:]
    kind = suffixes[-1].lower() if suffixes else ""
    if kind == ".gz" and len(suffixes) == 2 and suffixes[0].lower() != ".parquet":
        kind = suffixes[0].lower()
    if kind not in _READERS:
        raise UserError(f"{path}: unknown kind of file; known are .jsonl, .json, .csv (each also .gz) and .parquet")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.")
    return kind


def _close_names(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {path.parent} either."
    close = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir() if p.is_file()], cutoff=0.5)
    return f" Close to it: {', '.join(str(path.parent / name) for name in close)}" if close else ""


def _data_files(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if any(s.lower() in _READERS for s in p.suffixes[-2:]))
    return f" There are: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_jsonl(path: Path) -> Iterator[Placed]:
    with _open(path) as file:
        yield from json_lines(file, str(path))


def json_lines(file: IO[bytes], name: str) -> Iterator[Placed]:
    """Every row of JSON lines in an open file, such as standard input; blank lines are none."""
    for number, line in enumerate(file, start=1):
        if line.strip(b" \t\r\n\xef\xbb\xbf"):
            yield f"{name} line {number}", _json_row(line)


def _json_row(line: bytes) -> Row | BadRow:
    try:
        return _checked_object(json.loads(line.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        return BadRow("bad_text", f"not valid UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return BadRow("unreadable", f"not JSON: {error.msg} at character {error.pos + 1}")
    except (ValueError, RecursionError) as error:  # ValueError for integers of thousands of digits
        return BadRow("unreadable", f"not JSON: {error}")


def _checked_object(value: Any) -> Row | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow("unreadable", f"a JSON object with named columns was expected, not {type(value).__name__}")


def _read_json(path: Path) -> Iterator[Placed]:
    with _open(path) as file:
        data = file.read()
    try:
        rows = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line}: not valid UTF-8. Save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        hint = " One object a line is JSON lines: name the file .jsonl" if "Extra data" in str(error) else ""
        raise UserError(f"{path}: not JSON: {error}.{hint}") from error
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise UserError(f'{path}: a list of rows, or {{"data": [...]}}, was expected, not {type(rows).__name__}.')
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", _checked_object(row)


def _read_csv(path: Path) -> Iterator[Placed]:
    csv.field_size_limit(2**31 - 1)  # Python's own limit, 131,072 characters, is below a long conversation
    with _open(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise UserError(f"{path}: a column stands twice in the first line: {', '.join(header)}")
        rows = (cells for cells in reader if cells)
        for number, cells in enumerate(_csv_rows(rows, path), start=1):
            yield f"{path} row {number}", _csv_row(header, cells)


def _csv_rows(rows: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise UserError(f"{path}: not readable as csv: {error}") from error


def _csv_row(header: list[str], cells: list[str]) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow("unreadable", f"{len(cells)} cells under {len(header)} columns")
    return {column: _csv_cell(column, cell) for column, cell in zip(header, cells, strict=True)}


def _csv_cell(column: str, cell: str) -> Any:
    """csv knows only text: messages are told by their JSON form, ratings by their column; an empty rating is null."""
    if column in _NUMBERS:
        try:
            return float(cell) if cell.strip() else None
        except ValueError:
            return cell
    if cell.lstrip().startswith("["):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        if isinstance(value, list) and value and all(isinstance(m, dict) and "role" in m for m in value):
            return value
    return cell


def _read_parquet(path: Path) -> Iterator[Placed]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(batch_size=1024) for row in arrow_rows(batch))
            for number, row in enumerate(rows, start=1):
                yield f"{path} row {number}", row
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not readable as parquet: {error}") from error


def arrow_rows(batch: Any) -> Iterator[Row | BadRow]:
    """The rows of a record batch; a row that is no valid UTF-8 comes as a `BadRow`."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # one bad row hides the others of its batch
        for i in range(batch.num_rows):
            try:
                yield from batch.slice(i, 1).to_pylist()
            except UnicodeDecodeError:
                yield BadRow("bad_text", "not valid UTF-8")


_READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
