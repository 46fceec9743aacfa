"""JSON and text on disk: written whole or not at all, read line by line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rmbench.errors import unwritable

Json = dict[str, Any]  # a JSON object; mypy has no narrower type whose nested values can be read by key


def write_json(path: Path, value: object) -> None:
    """Atomic: a reader finds the old file or the new one, also after a power cut."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Atomic, parents made; the text is on the disk before the name points to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


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


def read_json(path: Path) -> Any:
    """The file's content, or None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_jsonl(path: Path) -> list[Json]:
    """Every complete line; a last line that a killed process left unfinished is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
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
