"""SIGTERM, SIGHUP and SIGUSR1 end a run between two steps, when all that it has learnt can be saved.

So does SIGUSR2 where somebody listens for it already: submitit, which then puts a pre-empted job back into the queue.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from rmbench.errors import Stopped

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class EndingSignals:
    """Within this context the signals are remembered instead of obeyed; outside the main thread there are none.

    A signal that is ignored stays so: `nohup` is meant to keep SIGHUP away. With `at_once` a signal ends the context
    where it comes: what is done there can be done again.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.at_once = at_once
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> EndingSignals:
        for number in ENDING:
            if number != getattr(signal, "SIGUSR2", None) or callable(signal.getsignal(number)):
                self._hold(number)
        return self

    def hold_interrupt(self) -> None:
        """From now on Ctrl-C waits too."""
        self._hold(signal.SIGINT)

    def _hold(self, number: int) -> None:
        listener = signal.getsignal(number)
        # Python hands signals to the main thread alone, and only there may handlers be set.
        if listener is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
            return
        self._before[number] = listener
        signal.signal(number, self._remember)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Those who listened before hear the signals again.

        Raises:
            Stopped: a fault came between a signal and its step's end; the end is what was asked for.
        """
        for number, listener in self._before.items():
            signal.signal(number, listener)
        # Most likely the signal's consequence: a launcher has ended others, and a collective call fails.
        if self.received is not None and isinstance(error, Exception):
            name = signal.Signals(self.received).name
            raise Stopped(f"{name}: stopped by {type(error).__name__}: {error};", self.received) from error

    def pass_on(self) -> bool:
        """Let those who listened before have the signal that came; False if there are none.

        They end the process, or the run goes on: submitit answers SIGTERM by waiting for SIGUSR2.
        """
        number = self.received
        listener = self._before.get(number) if number is not None else None
        if not callable(listener):
            return False
        self.received = None  # before the call: where the listener returns, the run goes on as if nothing had come
        listener(number, None)
        return True

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        # Nothing else: a handler runs between any two instructions, in the middle of a backward pass too.
        self.received = number
        if self.at_once and not self.pass_on():
            raise Stopped(f"{signal.Signals(number).name}: stopped after training; the weights are saved.", number)
