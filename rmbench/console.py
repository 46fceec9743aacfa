"""What goes to the terminal; and for files and pipes, whole lines that are not folded at 80 columns."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FILE_WIDTH = 140  # columns of a table that is not written to a terminal


class Results(Console):
    """A console that falls silent where nobody reads on (`rmbench train | head -1`) or the disk is full.

    What is printed stands in files too, so the job goes on.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's, but for a fault of standard output."""
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
    return plain if plain.is_terminal or "COLUMNS" in os.environ else Results(width=FILE_WIDTH)


def log_handler() -> logging.Handler:
    """Messages on standard error, in colour on a terminal; named in conf/hydra/job_logging."""
    errors = Console(stderr=True)
    if errors.is_terminal:
        return RichHandler(console=errors, show_path=False, show_time=False, rich_tracebacks=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    return handler


@contextmanager
def progress(label: str, total: int | None, done: int = 0, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; call what it yields with how many of `total` (if known) are done."""
    errors = Console(stderr=True)
    if not (shown and errors.is_terminal):
        yield lambda done: None
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda done: bar.update(task, completed=done)
