"""A time limit on somebody else's code."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class TookTooLong(BaseException):
    """What `deadline` raises. No `Exception`, so that no `except Exception` of that code swallows it."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises `TookTooLong` within the block once so many seconds have gone by.

    By SIGALRM, so a loop in Python or a regular expression that never ends is interrupted, and code of C
    that looks at no signal isn't. Outside the main thread there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_it(signum: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"not over after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, raise_it)
    # Again and again: asyncio keeps what one task raises, and goes on with the next, which may hang as well.
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds / 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
