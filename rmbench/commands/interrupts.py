"""Ctrl-C stops the program also during the import of a library that turns it into another error."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_seen = False


def interrupted() -> bool:
    """Whether Ctrl-C has come since `watched` began."""
    return _seen


@contextmanager
def watched() -> Iterator[None]:
    """Remember Ctrl-C while it does what it always does. Where it is ignored or handled otherwise, that stays."""
    global _seen
    _seen = False
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _remember(number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    signal.default_int_handler(number, frame)
