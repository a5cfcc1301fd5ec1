"""The rollout loop with a sampler that answers at once, one side of it: `python core_rollout.py ADAPTER`
prints one line of JSON.

An adapter has `name` and `setup()`, which gives `async play()`, what is timed, and `work(played)`. All
episodes begin at once, and all do the same: 5 turns, each 32 tokens observed and 32 sampled.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

GROUPS, SIZE, TURNS, OBS, ACT = 64, 16, 5, 32, 32
STEPS = GROUPS * SIZE * TURNS
TICK_S = 0.005
REPEATS = 8


async def timed(play: Callable[[], Awaitable[Any]], into: dict[str, Any]) -> None:
    """Into it: what was played, its CPU time, and the longest that a task which sleeps 5 ms had to wait
    beyond them. Nothing is returned: `asyncio.run` writes out the repr of what it returns.
    """
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK_S)
            longest = max(longest, time.perf_counter() - began - TICK_S)

    ticker = asyncio.create_task(tick())
    began = time.process_time()
    into["played"] = await play()
    into["cpu_s"] = time.process_time() - began
    await asyncio.sleep(TICK_S)  # so that the last stall is seen too
    ticker.cancel()
    into["stall_s"] = longest


def main(name: str) -> None:
    adapter = importlib.import_module(f"adapters.{name}")
    play, work = adapter.setup()
    row: dict[str, Any] = {"cpu_s": [], "stall_s": []}
    for repeat in range(REPEATS + 1):
        run: dict[str, Any] = {}
        asyncio.run(timed(play, run))
        if repeat:
            row["cpu_s"].append(run["cpu_s"] / STEPS)
            row["stall_s"].append(run["stall_s"])
        else:  # the first run isn't counted
            row["work"] = work(run.pop("played"))
            # What was imported is never garbage, but a full collection looks through it, 70 ms that fall
            # on this side or that by chance.
            gc.collect()
            gc.freeze()
    print(json.dumps({adapter.name: row}))


if __name__ == "__main__":
    main(sys.argv[1])
