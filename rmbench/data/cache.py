"""Folders that are made once and read by every run and process that wants the same.

An entry is named after all that its content follows from, so it is never out of date, and the whole folder may be
deleted at any time. It appears under its name only when all of it is on the disk.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from rmbench.errors import UserError


def key(*parts: Any) -> str:
    """A name for an entry that follows from `parts` (anything that JSON can hold) and from the code that reads data."""
    content = json.dumps([*parts, _code()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def entry(folder: Path, name: str, build: Callable[[Path], None]) -> Path:
    """`folder`/`name`; `build` fills it if it is not there. Processes that want the same wait for the first.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / name
    if path.is_dir():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{name}.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(f"dataset.cache={folder}: {error.strerror}. A folder that can be written is needed.") from error
    with lock:
        if not path.is_dir():
            _build(path, build)
    lock.release()
    return path


def file_state(path: Path) -> list[Any]:
    """What tells one state of a file from another without reading it: place, size, times of its last changes."""
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _build(path: Path, build: Callable[[Path], None]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        build(partial)
        for file in partial.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@functools.cache
def _code() -> str:
    """A hash of the modules that read and tokenise: what they make changes when they do."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
