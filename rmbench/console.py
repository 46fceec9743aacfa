"""What goes to the terminal; and for files and pipes, whole lines that are not folded at 80 columns."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from rmbench import board

FILE_WIDTH = 140  # columns of a table that is not written to a terminal
VERBOSITY = "RMBENCH_VERBOSITY"
LIBRARIES = ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY")  # whose messages -v shows
ON_BAR = {"on_bar": True}  # `extra` of a message whose numbers the bar shows: on a terminal it goes to train.log alone

_shown: Progress | None = None  # the bars on the terminal


class Results(Console):
    """A console that falls silent where nobody reads on (`rmbench train | head -1`) or the disk is full.

    What is printed stands in files too, so the job goes on. Brackets and colons of paths and sections are no markup.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, with one message if standard output fails."""
        try:
            super().print(*objects, **options)
        except (OSError, ValueError) as error:  # ValueError: closed
            logging.getLogger(__name__).warning("standard output: %s; what follows is not shown", error)
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Called by rich in place of the error."""
        self.quiet = True
        with suppress(OSError, ValueError, AttributeError):  # closed, or not a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter's own flush succeeds


def console() -> Console:
    """Results, on standard output."""
    plain = Results()
    told = os.environ.get("COLUMNS", "").isdigit() and int(os.environ["COLUMNS"]) > 0  # rich shows nothing at 0
    return plain if told or (plain.is_terminal and plain.width > 0) else Results(width=FILE_WIDTH)


@cache
def _errors() -> Console:
    """Standard error: one console for bars and messages, so that a message never lands in the middle of a bar."""
    return Console(stderr=True)


def log_handler(folder: str = "") -> logging.Handler:
    """The handler of messages: standard error, or for a run in `folder` its sweep's screen. Named in conf/hydra/."""
    return board.Poster(Path(folder).name) if folder and board.is_up() else terminal_handler()


def terminal_handler() -> logging.Handler:
    """Messages on standard error, in colour on a terminal."""
    level = {-1: logging.WARNING, 1: logging.DEBUG}.get(verbosity(), logging.INFO)
    if _errors().is_terminal:
        terminal = RichHandler(level, console=_errors(), show_path=False, show_time=verbose(), rich_tracebacks=False)
        terminal.addFilter(lambda record: not getattr(record, "on_bar", False))
        return terminal
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    return handler


def set_verbosity(quiet: bool, more: bool) -> None:
    """Set what `-q` and `-v` ask for, in this process and those that it starts."""
    os.environ[VERBOSITY] = str(more - quiet)
    if more:
        for library in LIBRARIES:  # read when they are imported, later
            os.environ.setdefault(library, "info")


def verbosity() -> int:
    """-1: results, warnings and errors alone; 1: also messages of libraries and of every run; 0 otherwise."""
    asked = os.environ.get(VERBOSITY, "0")
    return int(asked) if asked in ("-1", "0", "1") else 0


def verbose() -> bool:
    """Whether `-v` was given."""
    return verbosity() > 0


class TimeLeft(ProgressColumn):
    """Until the end, as long for each as on average so far."""

    def render(self, task: Task) -> Text:
        """Empty before the first."""
        done = task.completed - task.fields["first"]
        if not done or task.remaining is None or task.elapsed is None:
            return Text("")
        return Text(f"ETA {timedelta(seconds=round(task.elapsed / done * task.remaining))}", style="cyan")


class Advance(Protocol):
    """What moves a bar."""

    def __call__(self, done: int, numbers: str = "") -> None:
        """`done` of all are; `numbers` are shown beside the bar."""


@contextmanager
def progress(label: str, total: int | None, done: int = 0, shown: bool = True) -> Iterator[Advance]:
    """A bar on a terminal, nothing elsewhere; call what it yields with how many are done.

    A bar within another one's time is drawn below it.

    Args:
        label: what is counted.
        total: how many there are, if known.
        done: how many were done before.
        shown: False on all ranks but one.
    """
    if not shown or not _errors().is_terminal or board.elsewhere() or verbosity() < 0:
        yield lambda done, numbers="": None
        return
    with _bars() as bars:
        task = bars.add_task(label, total=total, completed=done, numbers="", first=done)

        def advance(done: int, numbers: str = "") -> None:
            """The bar at `done`, with these numbers beside it."""
            bars.update(task, completed=done, numbers=numbers)

        try:
            yield advance
        finally:
            bars.remove_task(task)


def whole() -> Column:
    """A column of a bar that keeps to one line; the bar itself makes room for it."""
    return Column(no_wrap=True)


@contextmanager
def _bars() -> Iterator[Progress]:
    """The bars that are on the terminal; new ones if there are none."""
    global _shown
    if _shown is not None:
        yield _shown
        return
    columns = (
        TextColumn("{task.description}", markup=False, table_column=whole()), BarColumn(bar_width=None),
        MofNCompleteColumn(table_column=whole()),
        TextColumn("{task.fields[numbers]}", markup=False, table_column=whole()),
        TimeLeft(table_column=whole()),
    )  # fmt: skip
    try:
        # what is printed goes above the bars, unless it goes to a file
        at_terminal = sys.stdout.isatty()
        with Progress(*columns, console=_errors(), transient=True, redirect_stdout=at_terminal) as _shown:
            yield _shown
    finally:
        _shown = None
