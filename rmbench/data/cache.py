"""Folders that are made once and read by every run and process that wants the same.

An entry is named after all that its content follows from, so it is never out of date, and the whole folder may be
deleted at any time. It appears under its name only when all of it is on the disk. Each opening compares its files with
the checksums that were taken when they were written; an entry that is damaged is made again. What was not used for the
longest time goes when the folder grows beyond its limit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rmbench.config import DatasetConfig
from rmbench.data.manifest import Hold, damage, hold, hold_alone, size_of, write_manifest
from rmbench.errors import FULL, UserError, unwritable

logger = logging.getLogger(__name__)

GIB = 2**30
ENTRY = re.compile(r"[a-z]+-([\d.]+-)?[0-9a-f]{24}")


def entry_name(kind: str, versions: Sequence[int], *parts: object) -> str:
    """A name for an entry that follows from `parts` (anything that JSON can hold).

    `versions` are those of the code that makes the content; each stands beside that code.
    """
    content = json.dumps([versions, *parts], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:24]
    return f"{kind}-{'.'.join(map(str, versions))}-{digest}"


@dataclass(frozen=True)
class Entry:
    """A folder of the cache. It is not pruned as long as this object lives, in this process or another.

    `new` says whether it was made just now.
    """

    path: Path
    new: bool
    held: Hold | None

    def __reduce__(self) -> tuple[object, ...]:
        return _reopened, (self.path,)


def _reopened(path: Path) -> Entry:
    """The entry in another process, which holds it too."""
    return Entry(path, False, hold(path))


@dataclass(frozen=True)
class Cache:
    """Entries below `folder`, at most `limit_gib` (None: as many as there are); `key` names the folder's config key."""

    folder: Path
    limit_gib: float | None = None
    key: str = "dataset.cache"

    def entry(self, name: str, build: Callable[[Path], None]) -> Entry:
        """`folder`/`name`; `build` fills it if it is not there or damaged. Who wants the same waits for the first.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self.folder / name
        found, _ = _whole(path)  # without the lock: who only reads never waits
        if found is None:
            with self._locked(name):
                found, fault = _whole(path)  # another process may have made it in the meantime
                if found is None:
                    if fault is not None:
                        logger.warning("%s: %s, so it is made again", path, fault)
                    try:
                        _build(path, build)
                    except OSError as error:  # of a disk that is full; another may be of the files that are read
                        raise (
                            unwritable(error, f"{self.key}={self.folder}") if error.errno in FULL else error
                        ) from error
                    found = Entry(path, True, hold(path))
        if found.new:  # only then has the folder grown
            self._prune()
        return found

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One process at a time makes an entry."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._lock(name)).acquire()
        except OSError as error:
            raise UserError(f"{self.key}={self.folder}: {error.strerror}. Choose a writable folder.") from error
        with lock:
            yield

    def _lock(self, name: str) -> Path:
        return self.folder / f".{name}.lock"

    def _prune(self) -> None:
        """Remove what was not used for the longest time until the limit is kept; nothing that is in use."""
        self._clear()
        if self.limit_gib is None:
            return
        entries = sorted(_entries(self.folder))
        size, limit = sum(size for _, size, _ in entries), self.limit_gib * GIB
        before, removed = size, 0
        for _, bytes_of_it, path in entries:
            if size > limit and self._remove_unused(path):
                size, removed = size - bytes_of_it, removed + 1
        key = f"{self.key}_limit_gib={self.limit_gib:g}"
        if removed:
            sizes = f"{before / GIB:.3g} GiB; {size / GIB:.3g} GiB are left"
            logger.info("%s: removed %d entries unused for the longest of %s (%s)", self.folder, removed, sizes, key)
        if size > limit:
            logger.warning("%s: %.3g GiB in use, more than %s", self.folder, size / GIB, key)

    def _clear(self) -> None:
        """Remove what processes that were killed left behind."""
        for partial in self.folder.glob(".*.partial"):
            name = partial.name[1:].removesuffix(".partial")
            with suppress(Timeout, OSError), FileLock(self._lock(name), timeout=0):
                shutil.rmtree(partial)

    def _remove_unused(self, path: Path) -> bool:
        """Whether the entry is gone; not if a process makes or reads it."""
        try:
            # Two locks: the first keeps makers away, the second fails while somebody reads.
            with FileLock(self._lock(path.name), timeout=0):
                held = hold_alone(path)
                if held is not None:
                    _remove(path)
        except (Timeout, OSError):
            return False
        return held is not None


def data_cache(config: DatasetConfig) -> Cache:
    """Pairs and token ids."""
    return Cache(Path(config.cache), config.cache_limit_gib)


def file_state(path: Path) -> list[Any]:
    """The state of a file without reading it: path, size, times of its last changes."""
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _whole(path: Path) -> tuple[Entry | None, str | None]:
    """The entry, held, if all of it is as it was written; else what is wrong with it, None if it is not there."""
    held = hold(path)  # before it is looked at, so that nobody prunes it in between
    if not os.path.lexists(path):
        return None, None
    fault = damage(path)
    return (None, fault) if fault is not None or held is None else (Entry(path, False, held), None)


def _build(path: Path, build: Callable[[Path], None]) -> None:
    """Written under another name, which is given up for the right one when all is on the disk."""
    partial = _partial(path)
    _remove(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        build(partial)
        write_manifest(partial)  # checksums before the name: who finds the name finds both
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove(path: Path) -> None:
    """Out of sight at once; who has files of it open keeps them."""
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    if path.is_dir() and not path.is_symlink():
        os.replace(path, partial)
        shutil.rmtree(partial, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Last use, bytes and place of every entry; other files and folders are not the cache's."""
    for path in folder.iterdir():
        if ENTRY.fullmatch(path.name) and path.is_dir():
            with suppress(OSError):  # another process removes it
                yield *size_of(path), path
