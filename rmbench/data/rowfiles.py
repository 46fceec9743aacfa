"""Files of rows: jsonl, json and csv, each also gzipped, parquet and arrow. One row at a time, each with its place."""

from __future__ import annotations

import difflib
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rmbench.data.arrowfiles import arrow_rows, read_arrow, read_parquet
from rmbench.data.csvfiles import csv_rows
from rmbench.data.hub import LFS_POINTER
from rmbench.data.messages import BadRow, Row
from rmbench.errors import UserError
from rmbench.files import Json

__all__ = ["Placed", "arrow_rows", "json_lines", "kind_of", "read_rows"]

Placed = tuple[str, Row | BadRow]
_PACKED = {b"\x28\xb5\x2f\xfd": "zstd -d", b"PK\x03\x04": "unzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz"}
_MAGIC = {
    b"PAR1": ("parquet", ".parquet"),
    b"ARROW1": ("Arrow", ".arrow"),
    b"\x1f\x8b": ("gzip", "KIND.gz, such as pairs.jsonl.gz"),
}


def read_rows(path: str | Path) -> Iterator[Placed]:
    """Every row of a file with its place, such as "pairs.jsonl line 7" or "pairs.csv row 7" (rows count from 1).

    A row that cannot be read comes as a `BadRow`, so that the caller decides whether it ends the job. Files are UTF-8,
    with or without a byte-order mark; blank lines are no rows.

    Raises:
        UserError: the file is missing, a folder, empty, of an unknown kind, or damaged as a whole.
    """
    path = Path(path).expanduser()
    kind = _checked_kind(path)
    try:
        _refuse_other_content(path, kind)
        yield from _READERS[kind](path)
    except (OSError, EOFError, zlib.error) as error:  # gzip's own errors are among these
        raise UserError(f"{path}: cannot be read: {error}") from error


def kind_of(path: Path) -> str | None:
    """The suffix that names the reader, such as ".jsonl" of "pairs.jsonl.gz"; None for a file of another kind."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    kind = suffixes[-1] if suffixes else ""
    if kind == ".gz" and len(suffixes) == 2 and suffixes[0] not in (".parquet", ".arrow"):
        kind = suffixes[0]
    return kind if kind in _READERS else None


def _checked_kind(path: Path) -> str:
    if not path.exists():
        raise UserError(f"{path}: no such file.{_close_names(path)}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it.{_data_files(path)}")
    kind = kind_of(path)
    if kind is None:
        known = ".jsonl, .json, .csv, .tsv (each also .gz), .parquet and .arrow"
        raise UserError(f"{path}: unknown kind of file; known are {known}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.")
    return kind


def _close_names(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {path.parent} either."
    similar = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir() if p.is_file()], cutoff=0.5)
    return f" Similar names: {', '.join(str(path.parent / name) for name in similar)}" if similar else ""


def _data_files(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if any(s.lower() in _READERS for s in p.suffixes[-2:]))
    return f" There are: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""


def _refuse_other_content(path: Path, kind: str) -> None:
    """Refuse a file whose content does not match its name."""
    with _open(path) as file:
        start = file.read(256)
    if start.startswith(LFS_POINTER):
        raise UserError(f"{path} is a Git LFS pointer; download the file: git lfs pull")
    for magic, (what, name) in _MAGIC.items():
        if start.startswith(magic) and kind != f".{what.lower()}":
            raise UserError(f"{path} is a {what} file; rename it to {name}")
    for magic, unpack in _PACKED.items():
        if start.startswith(magic):
            raise UserError(f"{path} is compressed, and not by gzip, which alone is read. First: {unpack} {path.name}")
    if kind in (".parquet", ".arrow"):
        return
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(start) > 3 and b"\0" in start[:2]):
        raise UserError(f"{path} is encoded as UTF-16. Save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path.name}")
    if kind in (".csv", ".tsv") and start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b'{"', b"[{")):
        names = ".jsonl (an object a line) or .json (one list)"
        raise UserError(f"{path} contains JSON; rename it to {names}")


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
        return _checked_object(json.loads(line.decode("utf-8-sig"), object_pairs_hook=_object))
    except UnicodeDecodeError as error:
        return BadRow("bad_text", f"not valid UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return BadRow("unreadable", f"not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}")
    except (ValueError, RecursionError) as error:  # ValueError for integers of thousands of digits
        return BadRow("unreadable", f"not JSON: {error}")


def _object(pairs: list[tuple[str, object]]) -> Json | BadRow:
    """A JSON object; a `BadRow` in its place, and in that of every object around it, if a key appears twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        return BadRow("unreadable", f"the key {next(n for n in names if names.count(n) > 1)!r} appears twice")
    for value in made.values():
        if isinstance(value, (list, BadRow)) and (bad := _bad_in(value)) is not None:
            return bad
    return made


def _bad_in(value: object) -> BadRow | None:
    if isinstance(value, list):
        return next((bad for bad in map(_bad_in, value) if bad is not None), None)
    return value if isinstance(value, BadRow) else None


def _checked_object(value: object) -> Row | BadRow:
    if isinstance(value, (dict, BadRow)):
        return value
    return BadRow("unreadable", f"a JSON object with named columns was expected, not {type(value).__name__}")


def _read_json(path: Path) -> Iterator[Placed]:
    with _open(path) as file:
        data = file.read()
    try:
        rows = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line}: not valid UTF-8. Save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        hint = " One object a line is JSON lines: name the file .jsonl" if "Extra data" in str(error) else ""
        raise UserError(f"{path}: not JSON: {error}.{hint}") from error
    if isinstance(rows, BadRow):  # in the object around the rows, or in a row below `data`
        raise UserError(f"{path}: {rows}.")
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise UserError(f'{path}: a list of rows, or {{"data": [...]}}, was expected, not {type(rows).__name__}.')
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", _checked_object(row)


def _read_csv(path: Path) -> Iterator[Placed]:
    with _open(path) as file:
        yield from _numbered(path, csv_rows(file, str(path)))


def _numbered(path: Path, rows: Iterator[Row | BadRow]) -> Iterator[Placed]:
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", row


_READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": lambda path: _numbered(path, read_parquet(path)),
    ".arrow": lambda path: _numbered(path, read_arrow(path)),
}
