"""Where a benchmark's rows come from, checked for the columns that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from rmbench.config import BenchmarkConfig
from rmbench.data.dataset import hub_rows, load_pairs
from rmbench.data.items import Item
from rmbench.data.messages import BadRow, Message, Row, check_text
from rmbench.data.rowfiles import Placed, kind_of, read_rows
from rmbench.data.sources import renamed
from rmbench.errors import UserError

OTHER_COLUMNS = "\nName them: 'benchmark.columns={prompt: COLUMN, chosen: COLUMN, rejected: COLUMN}'"


def placed_rows(config: BenchmarkConfig, hub_id: str, split: str, needs: tuple[str, ...]) -> tuple[str, list[Placed]]:
    """Name and rows of `benchmark.path`, or of a split on the Hub.

    Args:
        config: `benchmark.path`, if it is given, with its `columns`; else the Hub's set at `revision`.
        hub_id: of the published set.
        split: of it, unless `benchmark.split` is given.
        needs: columns that the first row must have.

    Raises:
        UserError: no such file or dataset, no rows, or a missing column (of `needs`).
    """
    if config.path is not None:
        name = config.path
        rows = iter(renamed(read_rows(config.path), config.columns, "benchmark.columns"))
    else:
        name = hub_id
        rows = iter(hub_rows(hub_id, None, config.split or split, config.revision, "benchmark.path=FILE"))
    first = next(rows, None)
    if first is None:
        raise UserError(f"{name}: no rows.")
    there = first[1] if isinstance(first[1], dict) else dict.fromkeys(needs)
    absent = [column for column in needs if column not in there]
    if absent:
        own = config.name == "pairs" and bool({"chosen", "rejected"} & set(absent))
        way_out = OTHER_COLUMNS if own else ""
        raise UserError(
            f"{name}: no column {', '.join(absent)}. benchmark={config.name} needs {', '.join(needs)};"
            f" the file has {', '.join(there)}.{way_out}"
        )
    return name, [first, *rows]


def files_below(path: str | Path) -> list[Path]:
    """The file itself, or every file of rows below a folder, in order of their names.

    Raises:
        UserError: there is none in the folder.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and kind_of(file))
    if not found:
        raise UserError(f"{path}: no file of rows in this folder (.jsonl, .json, .csv, .parquet).")
    return found


def file_rows(files: Iterable[Path]) -> Iterator[Placed]:
    """The rows of all files, one after another."""
    for file in files:
        yield from read_rows(file)


def load_pair_items(name: str, rows: Iterable[Placed]) -> list[Item]:
    """Items from rows in any form of training data; none is dropped.

    Raises:
        UserError: a malformed row.
    """
    pairs, _ = load_pairs(rows, name, Path(name).name, for_training=False)
    return [Item.from_pair(pair) for pair in pairs]


def load_items(rows: Iterable[Placed], parse: Callable[[Row], Item]) -> list[Item]:
    """Items from rows through `parse`; a row without an id is named by its number.

    Raises:
        UserError: a malformed row, or an id that occurs twice.
    """
    items: dict[str, Item] = {}
    for number, (place, row) in enumerate(rows, start=1):
        try:
            if isinstance(row, BadRow):
                raise row
            item = parse(row)
        except KeyError as error:
            raise UserError(f"{place}: no column {error}.") from error
        except (BadRow, TypeError, ValueError) as error:
            raise UserError(f"{place}: {error}.") from error
        item = item if item.id else replace(item, id=f"row-{number}")
        if item.id in items:
            raise UserError(f"{place}: the id {item.id!r} appears twice.")
        items[item.id] = item
    return list(items.values())


def id_text(value: object) -> str:
    """An id as text; "" where there is none: null, NaN, or a blank cell of a csv file."""
    text = "" if value is None or value != value else str(value)
    return text if text.strip() else ""


def user(text: object, column: str = "prompt") -> list[Message]:
    """A prompt of one turn.

    Raises:
        BadRow: it is no text, or an empty one.
    """
    if not isinstance(text, str) or not text.strip():
        raise BadRow("empty_prompt", f"{column} is {'empty' if isinstance(text, str) else type(text).__name__}")
    check_text(text, column)
    return [{"role": "user", "content": text}]


def assistant(text: object, column: str) -> list[Message]:
    """A response of one turn; it may be empty.

    Raises:
        BadRow: it is no text.
    """
    if not isinstance(text, str):
        raise BadRow("wrong_type", f"{column} is {type(text).__name__}; a text was expected")
    check_text(text, column)
    return [{"role": "assistant", "content": text}]


def assistants(texts: object, column: str) -> list[list[Message]]:
    """A list of responses of one turn each.

    Raises:
        BadRow: it is no list, an empty one, or has something else than texts in it.
    """
    if not isinstance(texts, list) or not texts:
        raise BadRow("wrong_type", f"{column} is {texts!r:.40}; a list of texts was expected")
    return [assistant(text, f"{column}[{i}]") for i, text in enumerate(texts)]


def conversation(messages: object, column: str) -> list[Message]:
    """A prompt of any number of turns, as roles and texts alone; a text may be empty.

    Raises:
        BadRow: it is no list of messages that ends with the user's.
    """
    if not isinstance(messages, list) or not messages:
        raise BadRow("wrong_type", f"{column} is {messages!r:.40}; a list of messages was expected")
    kept: list[Message] = []
    for i, message in enumerate(messages):
        role, content = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise BadRow(
                "wrong_type", f"{column}[{i}] is {message!r:.40}; a message with role and content was expected"
            )
        check_text(content, f"{column}[{i}]")
        kept.append({"role": role, "content": content})
    if kept[-1]["role"] != "user":
        raise BadRow("wrong_type", f"{column} ends with a turn of the {kept[-1]['role']}, not of the user")
    return kept


def one_turn(text: object, column: str) -> list[Message]:
    """A prompt of one turn, which may be empty.

    Raises:
        BadRow: it is no text.
    """
    return conversation([{"role": "user", "content": text}], column)
