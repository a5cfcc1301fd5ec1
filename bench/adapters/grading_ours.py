"""This project's grader, which needs nobody to end it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from cookbook import Message
from cookbook_plugin_math import deciding, grading
from cookbook_plugin_math.answer import Answer

name = "cookbook"
boxed, killed = False, False
grade = grading.is_correct
AT_ONCE = 64


def begin() -> None:
    grading.warm()


def workers() -> list[int]:
    return [worker.process.pid for worker in list(grading.pool("symbolic")._workers)]


def forget() -> None:
    """What was decided and read before."""
    grading._decided.clear()
    deciding._read_reference.cache_clear()


def together(cases: Sequence[Sequence[str]]) -> float:
    """The wall time for all cases, 64 at a time in an event loop. Beside this process two workers."""
    return asyncio.run(_together(Answer(), cases))


async def _together(grader: Answer, cases: Sequence[Sequence[str]]) -> float:
    left = iter(cases)

    async def one_by_one() -> None:
        for text, reference in left:
            made: Any = grader.grade([], Message(role="assistant", content=text), reference)
            if hasattr(made, "__await__"):
                await made

    began = time.perf_counter()
    await asyncio.gather(*(one_by_one() for _ in range(AT_ONCE)))
    return time.perf_counter() - began
