"""Where the runs of a sweep post what the process that started them shows: their messages, and how they ended.

They may go on in that process or in others at the same time. A notice is a line of JSON, appended to one file at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rmbench.files import Json

PLACE = "RMBENCH_BOARD"  # in the environment, so that every process below this one finds it: PID:FILE
STOP = "stop"  # beside the file: no further run begins


class Board:
    """The notices of one sweep, for the process that shows them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._read = 0

    def new(self) -> list[Json]:
        """Notices that were posted since the last call; a line that is still being written waits for the next call."""
        with self.file.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def stop(self) -> None:
        """Keep further runs from starting."""
        (self.file.parent / STOP).touch()


@contextmanager
def opened() -> Iterator[Board]:
    """A board of this process; within it, what runs post goes there."""
    with tempfile.TemporaryDirectory(prefix="rmbench-sweep-") as folder:
        file = Path(folder) / "notices.jsonl"
        file.touch()
        before = os.environ.get(PLACE)
        os.environ[PLACE] = f"{os.getpid()}:{file}"
        try:
            yield Board(file)
        finally:
            del os.environ[PLACE]
            if before is not None:
                os.environ[PLACE] = before


def post(event: str, **facts: object) -> None:
    """Post a notice; does nothing if there is no board, as on another machine."""
    _, file = _place()
    if file is not None:
        line = json.dumps({"event": event, "pid": os.getpid(), **facts}, default=str) + "\n"
        with suppress(OSError):
            descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)


def is_up() -> bool:
    """Whether somebody shows what is posted here."""
    return _place()[1] is not None


def elsewhere() -> bool:
    """Whether that is another process, to which the terminal belongs."""
    owner, file = _place()
    return file is not None and owner != os.getpid()


def stopping() -> bool:
    """Whether no further run is to begin."""
    _, file = _place()
    return file is not None and (file.parent / STOP).exists()


def _place() -> tuple[int, Path | None]:
    owner, _, file = os.environ.get(PLACE, "").partition(":")
    return (int(owner), Path(file)) if owner.isdecimal() and os.path.isfile(file) else (0, None)


class Poster(logging.Handler):
    """Messages of a run, for the board."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run = run

    def emit(self, record: logging.LogRecord) -> None:
        """Post the record as a notice, with what decides whether it is shown."""
        on_bar = getattr(record, "on_bar", False)
        facts = {"level": record.levelno, "logger": record.name, "text": record.getMessage(), "on_bar": on_bar}
        post("message", run=self.run, **facts)


def running(notices: list[Json]) -> set[int]:
    """The processes whose last run has begun and not ended, as the notices say."""
    last = {notice["pid"]: notice["event"] for notice in notices if notice["event"] != "message"}
    return {pid for pid, event in last.items() if event == "began"}


def end(pids: set[int]) -> None:
    """Ask the runs in these processes to save and stop."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
