"""Ctrl-C once: what runs is cancelled and tidies up. Twice: nothing is waited for that can be cancelled."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any

_INSIST_S = 0.05


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run`, from the main thread. Raises KeyboardInterrupt after an interrupt, all tasks ended.

    asyncio's own handler raises KeyboardInterrupt into whatever runs at the second Ctrl-C, which can
    leave a task that is tidying up neither ended nor cancelled.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        error = asyncio.run(_watch(coroutine))
    finally:
        signal.signal(signal.SIGINT, before)
    if error is not None:
        raise KeyboardInterrupt from error


async def _watch(coroutine: Coroutine[Any, Any, None]) -> BaseException | None:
    """What an interrupted coroutine ended with; None when it wasn't. Raises what it raises otherwise."""
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    work = loop.create_task(coroutine)
    presses = heard = 0

    def press(signum: int, frame: Any) -> None:
        nonlocal presses
        presses += 1
        if presses == 1:
            print("cookbook: stopping; once more to wait for nothing", file=sys.stderr, flush=True)
        if presses > heard + 1:  # the loop hasn't come round since the last one: a call blocks it
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(hear)

    def hear() -> None:
        nonlocal heard
        heard += 1
        work.cancel() if heard == 1 else insist()

    def insist() -> None:
        # Again and again: a task may begin to tidy up only after it was cancelled.
        for task in asyncio.all_tasks() - {me}:
            task.cancel()
        if not work.done():
            loop.call_later(_INSIST_S, insist)

    signal.signal(signal.SIGINT, press)
    await asyncio.wait([work])
    if heard and work.cancelled():
        return asyncio.CancelledError()
    if heard and work.exception() is not None:
        return work.exception()
    work.result()
    return None
