"""JSON and text on disk: written whole or not at all, read line by line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from rmbench.errors import UserError, unwritable

Json = dict[str, Any]  # a JSON object; mypy has no narrower type whose nested values can be read by key


def write_json(path: Path, value: object) -> None:
    """Atomic: a reader finds the old file or the new one, also after a power cut."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Atomic, parents made; the text is on the disk before the name points to it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write the file whole or not at all; on a full disk nothing is left of it.

    Raises:
        OSError: with the name of the file, which Python gives only where a file is opened.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise


def refuse_unwritable(path: Path) -> None:
    """Make the folder that `path` will be in; for before the work whose result goes there.

    Raises:
        UserError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise unwritable(error, path) from error


class Unreadable(UserError, ValueError):
    """A file of ours that is not as it was written."""


def read_json(path: Path, *keys: str) -> Any:
    """The object in the file, which has these keys, or None if there is no such file.

    Raises:
        Unreadable: the file holds anything else.
    """
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or not {*keys} <= value.keys():
            raise ValueError(f"an object{' with ' if keys else ''}{', '.join(keys)} was expected")
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path} is not as it was written ({error}). Bring it back, or remove it.") from error
    return value


def read_jsonl(path: Path) -> list[Json]:
    """Every complete line; a last line that a killed process left unfinished is passed over.

    Raises:
        Unreadable: the file is no text.
    """
    rows = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path} is not a text ({error}). Bring it back, or remove it.") from error
    for line in text.split("\n"):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return rows


def clear_temporary(folder: Path) -> None:
    """Remove what an interrupted write left behind (names that start with a dot and end in .partial)."""
    for path in folder.glob("**/.*.partial"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def flat(tree: object, prefix: str = "") -> Json:
    """A tree of dicts as dotted key -> value.

    >>> flat({"a": {"b": 1, "c": [2]}})
    {'a.b': 1, 'a.c': [2]}
    """
    if not isinstance(tree, dict):
        return {prefix: tree}
    found: Json = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
