"""The runs of a sweep: where they are, what is shown of them while they go on, and what came of them."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from rmbench import board
from rmbench.console import Advance, progress, terminal_handler, verbose
from rmbench.files import Json

POLL_SECONDS = 0.2
STEPS = "rmbench.training"  # whose messages are of one run alone


class SweepCallback(Callback):
    """Remembers the folder of the sweep that is under way; Hydra gives it to callbacks only."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Called by Hydra once, before the first job."""
        SweepCallback.folder = Path(config.hydra.sweep.dir)


class Screen:
    """Shows what the runs of a sweep post: a line for each that has ended, their messages, and one bar.

    Args:
        posted: the board.
        total: how many runs there are.
        advance: moves the bar.
    """

    def __init__(self, posted: board.Board, total: int, advance: Advance) -> None:
        self.board, self.total, self.advance = posted, total, advance
        self.notices: list[Json] = []  # of runs that began and ended
        self._handler, self._seen = terminal_handler(), set[str]()
        self._lock, self._over, self._began = threading.Lock(), threading.Event(), time.monotonic()
        self._ended = 0

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Within it, a thread shows what is new."""
        thread = threading.Thread(target=self._follow, daemon=True, name="sweep")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            self.show_new()

    def _follow(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self.show_new()

    def show_new(self) -> None:
        """Whatever was posted since the last call."""
        with self._lock:
            for notice in self.board.new():
                if notice["event"] == "message":
                    self._message(notice)
                    continue
                self.notices.append(notice)
                if notice["event"] == "ended":
                    self._end(notice)

    def _message(self, notice: Json) -> None:
        """Warnings and what is of one run alone have its name before them; what is the same in all is shown once."""
        text, level = notice["text"], notice["level"]
        if level < logging.WARNING and not verbose() and not notice["logger"].startswith(STEPS):
            kind = re.sub(r"\S*/\S*|\d[\w.,+-]*", "#", text)  # paths and numbers differ, the message does not
            if kind in self._seen:
                return
            self._seen.add(kind)
        else:
            text = f"{label(notice['run'])}: {text}"
        self._show(level, text, notice["on_bar"])

    def _end(self, notice: Json) -> None:
        self._ended += 1
        passed = time.monotonic() - self._began
        left = timedelta(seconds=round(passed / self._ended * (self.total - self._ended)))
        eta = f", ETA {left}" if self._ended < self.total else ""
        level = logging.ERROR if notice["error"] else logging.INFO
        self._show(level, f"run {self._ended}/{self.total}: {label(notice['run'])}: {result(notice)}{eta}")
        self.advance(self._ended)

    def _show(self, level: int, text: str, on_bar: bool = False) -> None:
        record = logging.LogRecord("rmbench", level, __file__, 0, text, None, None)
        record.on_bar = on_bar
        if self._handler.filter(record):
            self._handler.handle(record)


@contextmanager
def shown(total: int) -> Iterator[Screen]:
    """The screen of a sweep of so many runs."""
    with board.opened() as posted, progress("run", total) as advance:
        screen = Screen(posted, total, advance)
        with screen.kept_up():
            yield screen


def result(notice: Json) -> str:
    """How a run ended, as text.

    >>> result({"error": None, "accuracy": 0.8125, "seconds": 14.2})
    'accuracy 0.812, 14 s'
    """
    if notice["error"]:
        return f"failed: {notice['error']}"
    if notice["seconds"] is None:
        return f"accuracy {notice['accuracy']:.3f}, finished before"
    seconds = notice["seconds"]
    took = f"{seconds:.0f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
    return f"accuracy {notice['accuracy']:.3f}, {took}"


def label(run: str) -> str:
    """A run's folder without the hash of its config.

    >>> label("loss=bt,seed=0-7a78aed1")
    'loss=bt,seed=0'
    """
    return re.sub(r"-[0-9a-f]{8}$", "", run)


def finish(folder: Path) -> int:
    """Print and write the sweep's tables; the number of its runs that are not finished."""
    from rmbench.report import report  # its statistics take a second to import
    from rmbench.reporting.collect import find_runs

    if not find_runs(folder):
        return 0
    return sum(run.state != "finished" for run in report([folder]))
