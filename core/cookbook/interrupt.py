"""SIGINT (Ctrl-C) or SIGTERM once: the run saves a checkpoint and ends, or is cancelled where it can't.
Twice: nothing is waited for that can be cancelled."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, Protocol

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_INSIST_S = 0.05


class Interrupted(KeyboardInterrupt):
    """A run was asked to end by the signal `signum`, and did."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


class Stoppable(Protocol):
    """What can be asked to end: `stop` is for whoever heeds it, while `stoppable`."""

    stop: asyncio.Event
    stoppable: bool


def run(coroutine: Coroutine[Any, Any, None], stoppable: Stoppable) -> None:
    """`asyncio.run`, from the main thread. Raises `Interrupted` after a signal, all tasks ended.

    asyncio's own handler raises KeyboardInterrupt into whatever runs at the second Ctrl-C, which can
    leave a task that is tidying up neither ended nor cancelled.
    """
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    try:
        interrupted = asyncio.run(_watch(coroutine, stoppable))
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if interrupted is not None:
        signum, error = interrupted
        raise Interrupted(signum) from error


async def _watch(
    coroutine: Coroutine[Any, Any, None], stoppable: Stoppable
) -> tuple[int, BaseException] | None:
    """The signal, and what the interrupted coroutine ended with; None when it wasn't. Raises what it
    raises otherwise."""
    work = asyncio.get_running_loop().create_task(coroutine)
    listener = _Listener(work, stoppable)
    for each in _SIGNALS:
        signal.signal(each, listener.press)
    try:
        await asyncio.wait([work])
    finally:
        work.add_done_callback(_heard)
    error = asyncio.CancelledError() if work.cancelled() else work.exception()
    if listener.heard and error is not None:
        return listener.signum, error
    work.result()
    return None


def _heard(work: asyncio.Task[None]) -> None:
    """An interrupt that was raised right into the work has been dealt with."""
    if not work.cancelled():
        work.exception()


class _Listener:
    """Hears signals in whatever the process is at, and acts on them in the event loop."""

    def __init__(self, work: asyncio.Task[None], stoppable: Stoppable) -> None:
        self._work, self._stoppable = work, stoppable
        self._loop, self._watcher = asyncio.get_running_loop(), asyncio.current_task()
        self._presses = self.heard = 0
        self.signum: int = signal.SIGINT

    def press(self, signum: int, frame: Any) -> None:
        self._presses += 1
        if self._presses == 1:
            self.signum = signum
            first = "saving, then stopping" if self._stoppable.stoppable else "stopping"
            print(f"cookbook: {first}; once more to wait for nothing", file=sys.stderr, flush=True)
        if self._presses > self.heard + 1:  # the loop hasn't come round since the last one: a call blocks it
            raise Interrupted(signum)
        self._loop.call_soon_threadsafe(self._hear)

    def _hear(self) -> None:
        self.heard += 1
        if self.heard > 1:
            self._insist()
        elif self._stoppable.stoppable:
            self._stoppable.stop.set()
        else:
            self._work.cancel()

    def _insist(self) -> None:
        # Again and again: a task may begin to tidy up only after it was cancelled.
        for task in asyncio.all_tasks() - {self._watcher}:
            task.cancel()
        if not self._work.done():
            self._loop.call_later(_INSIST_S, self._insist)
