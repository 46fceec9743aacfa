"""SIGTERM, SIGHUP, SIGUSR1 and Ctrl-C end a run between two steps, when all that it has learnt can be saved.

A second Ctrl-C ends it at once. SIGUSR2 ends it between two steps where somebody listens for it already: submitit,
which then puts a pre-empted job back into the queue.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from rmbench.errors import Stopped

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]

WAITING = b"\nCtrl-C: the run stops after this step and saves a checkpoint. Ctrl-C again stops it at once.\n"


class EndingSignals:
    """Within this context the signals are remembered instead of obeyed; outside the main thread there are none.

    A signal that is ignored stays so: `nohup` is meant to keep SIGHUP away. With `at_once` a signal ends the context
    where it comes, and Ctrl-C does what it always does: what is done there can be done again.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.at_once = at_once
        # A launcher of a group passes Ctrl-C on to ranks that have it from the terminal already.
        self._second_ends = "RANK" not in os.environ
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> EndingSignals:
        for number in ENDING:
            if number != getattr(signal, "SIGUSR2", None) or callable(signal.getsignal(number)):
                self._hold(number)
        if not self.at_once:
            self._hold(signal.SIGINT)
        return self

    def hold_every_interrupt(self) -> None:
        """Make a second Ctrl-C wait too, from now on."""
        self._second_ends = False

    def _hold(self, number: int) -> None:
        listener = signal.getsignal(number)
        # Python hands signals to the main thread alone, and only there may handlers be set.
        if listener is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
            return
        self._before[number] = listener
        signal.signal(number, self._remember)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Restore the former handlers of the signals.

        Raises:
            Stopped: a fault came between a signal and its step's end; the end is what was asked for.
        """
        for number, listener in self._before.items():
            signal.signal(number, listener)
        # Most likely the signal's consequence: a launcher has ended others, and a collective call fails.
        if self.received is not None and isinstance(error, Exception):
            raise Stopped(
                f"{name_of(self.received)}: stopped by {type(error).__name__}: {error};", self.received
            ) from error

    def pass_on(self) -> bool:
        """Let those who listened before have the signal that came; False if there are none.

        They end the process, or the run goes on: submitit answers SIGTERM by waiting for SIGUSR2. Ctrl-C is not passed
        on: Python's own listener would say nothing of what was saved.
        """
        number = self.received if self.received != signal.SIGINT else None
        listener = self._before.get(number) if number is not None else None
        if not callable(listener):
            return False
        self.received = None  # before the call: where the listener returns, the run goes on as if nothing had come
        listener(number, None)
        return True

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        # Little else: a handler runs between any two instructions, in the middle of a backward pass or of a line of the
        # log, so what it writes goes past Python's buffers.
        if number == self.received == signal.SIGINT and self._second_ends:
            signal.default_int_handler(number, _frame)
        if number == signal.SIGINT and self.received is None and self._second_ends:
            with suppress(OSError):
                os.write(2, WAITING)
        self.received = number
        if self.at_once and not self.pass_on():
            raise Stopped(f"{name_of(number)}: stopped after training; the weights are saved.", number)


def name_of(number: int) -> str:
    """The signal as users know it: Ctrl-C, or its name such as SIGTERM."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
