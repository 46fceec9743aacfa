"""Rows of Arrow and parquet files. A cell that Python cannot represent fails only when it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmbench.data.formats import COLUMNS
from rmbench.data.messages import BadRow, Row
from rmbench.errors import UserError

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 1024
_UNREADABLE = (ValueError, OverflowError, NotImplementedError)  # UnicodeDecodeError and most of Arrow's are ValueErrors


def read_parquet(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a parquet file.

    Raises:
        UserError: it is damaged, or a column appears twice.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _refuse_twice(file.schema_arrow, path)
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from arrow_rows(batch)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not readable as parquet: {error}") from error


def read_arrow(path: Path) -> Iterator[Row | BadRow]:
    """The rows of an Arrow file, in the file format or as the stream that the datasets library writes.

    Raises:
        UserError: it is damaged, or a column appears twice.
    """
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                file = pyarrow.ipc.open_file(source)
                batches: Iterable[pyarrow.RecordBatch] = (file.get_batch(i) for i in range(file.num_record_batches))
                schema = file.schema
            else:
                source.seek(0)
                batches = stream = pyarrow.ipc.open_stream(source)
                schema = stream.schema
            _refuse_twice(schema, path)
            for batch in batches:
                for part in _sliced(batch):
                    yield from arrow_rows(part, validate=True)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not readable as Arrow: {error}") from error


def arrow_rows(batch: pyarrow.RecordBatch, validate: bool = False) -> Iterator[Row | BadRow]:
    """The rows of a record batch.

    A cell that Python cannot hold (no UTF-8, a date out of range) makes a `BadRow` of its row if its column is one of
    those that forms of pairs have; in another column the `BadRow` stands in the cell's place. `validate` is for files
    in Arrow's own form, whose bytes nobody has checked.
    """
    deep = [field.name for field in batch.schema if _depth(field.type) > 1]
    try:
        if validate:
            batch.validate(full=True)
        rows: Iterable[Row | BadRow] = batch.to_pylist()
    except _UNREADABLE:
        rows = _cell_by_cell(batch)
    for row in rows:
        if isinstance(row, dict):
            row.update({name: _without_nulls(row[name]) for name in deep})
        yield row


def _sliced(batch: pyarrow.RecordBatch) -> Iterator[pyarrow.RecordBatch]:
    for start in range(0, batch.num_rows, ROWS_AT_ONCE):
        yield batch.slice(start, ROWS_AT_ONCE)


def _cell_by_cell(batch: pyarrow.RecordBatch) -> Iterator[Row | BadRow]:
    columns = {name: _cells(name, batch.column(i)) for i, name in enumerate(batch.schema.names)}
    for i in range(batch.num_rows):
        row = {name: cells[i] for name, cells in columns.items()}
        bad = next((row[name] for name in COLUMNS if isinstance(row.get(name), BadRow)), None)
        yield row if bad is None else bad


def _cells(name: str, column: pyarrow.Array) -> Sequence[Any]:
    try:
        column.validate(full=True)
        return list(column.to_pylist())
    except _UNREADABLE:
        return [_cell(name, column.slice(i, 1)) for i in range(len(column))]


def _cell(name: str, column: pyarrow.Array) -> Any:
    """The value of a column of one row."""
    try:
        column.validate(full=True)
        return column.to_pylist()[0]
    except _UNREADABLE as error:
        if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
            return BadRow("bad_text", f"{name} is not valid UTF-8")
        return BadRow("unreadable", f"{name} cannot be read: {str(error).splitlines()[0]}")


def _depth(kind: pyarrow.DataType) -> int:
    """How many structs stand one in the other. Rows share their fields, so those that a row has not are null there."""
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    named = str(kind).startswith("struct")
    return int(named) + max(map(_depth, inner), default=0)


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _refuse_twice(schema: pyarrow.Schema, path: Path) -> None:
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: the column {twice[0]!r} appears twice; rename or remove one.")
