"""Ctrl-C once: what runs is cancelled and tidies up. Twice: nothing is waited for that can be cancelled."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

_INSIST_S = 0.05


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run`, from the main thread. Raises KeyboardInterrupt after an interrupt, all tasks ended.

    asyncio's own handler raises KeyboardInterrupt into whatever runs at the second Ctrl-C, which can
    leave a task that is tidying up neither ended nor cancelled.
    """
    if asyncio.run(_watch(coroutine)):
        raise KeyboardInterrupt


async def _watch(coroutine: Coroutine[Any, Any, None]) -> bool:
    """Whether the coroutine was interrupted. Raises what it raises otherwise."""
    loop, me, presses = asyncio.get_running_loop(), asyncio.current_task(), 0
    work = loop.create_task(coroutine)

    def press() -> None:
        nonlocal presses
        presses += 1
        work.cancel() if presses == 1 else insist()

    def insist() -> None:
        # Again and again: a task may begin to tidy up only after it was cancelled.
        for task in asyncio.all_tasks() - {me}:
            task.cancel()
        if not work.done():
            loop.call_later(_INSIST_S, insist)

    try:
        loop.add_signal_handler(signal.SIGINT, press)
    except NotImplementedError:  # Windows: asyncio's own handler serves
        await work
        return False
    try:
        await asyncio.wait([work])
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if presses and (work.cancelled() or work.exception()):
        return True
    work.result()
    return False
