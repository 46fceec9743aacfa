"""Processes in which the runs of a sweep go on side by side: one thread each, and one end for all."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from unittest.mock import patch

from rmbench import board
from rmbench.commands.ranks import PARENT, end_with_parent
from rmbench.commands.sweep import Screen
from rmbench.errors import RunFailed, Stopped
from rmbench.training.signals import ENDING, name_of

log = logging.getLogger(__name__)

KILLED = (
    "A process of the sweep was killed, for want of memory perhaps; the runs beside it stopped too.\n"
    "hydra.launcher.n_jobs=1 runs one at a time."
)


@contextmanager
def side_by_side(screen: Screen, single_thread: bool) -> Iterator[None]:
    """Around the launcher: what asks this process to end, ends every run after it has saved; no further one begins.

    Raises:
        KeyboardInterrupt: Ctrl-C did; a second one does not wait. After another signal, `Stopped`.
        RunFailed: a process was killed.
    """
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        """A run that has not started when the board requests a stop does not start."""
        if received and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        received.append(number)
        screen.board.stop()
        screen.show_new()
        pids = board.running(screen.notices)
        log.warning("%s: %d runs save a checkpoint and stop", name_of(number), len(pids))
        board.end(pids)

    heard = [number for number in (signal.SIGINT, *ENDING) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard if number != getattr(signal, "SIGUSR2", None)}
    threads = {"OMP_NUM_THREADS": "1"} if single_thread else {}
    try:
        with patch.dict(os.environ, threads | {PARENT: str(os.getpid())}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A worker stopped while some jobs")  # another has taken its place
            yield
    except TerminatedWorkerError as error:
        raise RunFailed(KILLED) from error
    finally:
        for number, listener in before.items():
            signal.signal(number, listener)
    if received and received[0] == signal.SIGINT:
        raise KeyboardInterrupt
    if received:
        raise Stopped(f"{name_of(received[0])}: stopped; the progress of the runs is saved.", received[0])


_follows_parent = False


@contextmanager
def one_of_several() -> Iterator[None]:
    """Around a run in such a process: the end is the parent's to ask for, Ctrl-C included, and its own end too."""
    global _follows_parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    if not _follows_parent:
        end_with_parent()
        _follows_parent = True
    try:
        yield
    except Stopped as error:
        log.info("%s", error)  # raised on, it would end the runs beside this one before they have saved
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end(number: int, _frame: FrameType | None) -> None:
    raise Stopped(f"{signal.Signals(number).name}: stopped.", number)
