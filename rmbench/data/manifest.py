"""What the files of a cache entry were when they were written, who reads them, and when they were last used.

`manifest` stands beside them: the checksum of its own text, then length and checksum of each file. xxh3 reads several
GB/s, so that all of an entry is compared at every opening; it finds damage, not forgery. Whoever reads the entry holds
a shared lock on the manifest, which the system drops with the process; its time of change is that of the last use.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from contextlib import suppress
from pathlib import Path

import xxhash

MANIFEST = "manifest"


class Hold:
    """A lock on an entry that lasts as long as this object; without a descriptor it holds nothing."""

    def __init__(self, descriptor: int | None) -> None:
        if descriptor is not None:
            weakref.finalize(self, os.close, descriptor)


def write_manifest(folder: Path) -> None:
    """Record the files of `folder`, all on the disk when this returns.

    Raises:
        OSError: the disk does not take them.
    """
    files = {path.name: [path.stat().st_size, _checksum(path)] for path in sorted(folder.iterdir())}
    text = json.dumps(files).encode()
    (folder / MANIFEST).write_bytes(xxhash.xxh3_128_hexdigest(text).encode() + b"\n" + text)
    for path in folder.iterdir():
        with path.open("rb") as written:
            os.fsync(written.fileno())


def damage(folder: Path) -> str | None:
    """The fault in the files of `folder`, as the end of a sentence; None if there is none."""
    try:
        checksum, _, text = (folder / MANIFEST).read_bytes().partition(b"\n")
        if checksum != xxhash.xxh3_128_hexdigest(text).encode():
            return f"{MANIFEST} is damaged"
        files: dict[str, tuple[int, str]] = json.loads(text)
        for name, (size, expected) in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if _checksum(path) != expected:
                return f"{name} is not what was written"
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read ({error.strerror})"
    return None


def hold(folder: Path) -> Hold | None:
    """Keep the entry from being removed, and note that it is used now; None if there is no entry."""
    file = folder / MANIFEST
    while True:
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except OSError:
            return None
        lock(descriptor, shared=True)
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                with suppress(OSError):  # a folder that others may only read
                    os.utime(file)
                return Hold(descriptor)
        os.close(descriptor)  # removed while this waited for the lock


def hold_alone(folder: Path) -> Hold | None:
    """A lock that nobody else can have; None where a process reads the entry, or where that cannot be known."""
    try:
        descriptor = os.open(folder / MANIFEST, os.O_RDWR)
    except FileNotFoundError:
        return Hold(None)  # made before there were manifests, or damaged
    except OSError:
        return None
    if not lock(descriptor, shared=False):
        os.close(descriptor)
        return None
    return Hold(descriptor)


def lock(descriptor: int, shared: bool) -> bool:
    """Wait for a shared lock, or try for one of one's own; False without it (also where there are no locks)."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def size_of(folder: Path) -> tuple[float, int]:
    """When the entry was last used (seconds since 1970) and its bytes."""
    files = [path.stat() for path in folder.iterdir()]
    manifest = folder / MANIFEST
    used = manifest if manifest.is_file() else folder
    return used.stat().st_mtime, sum(file.st_size for file in files)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
