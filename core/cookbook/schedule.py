"""What runs when: which batch is sampled from which weights, how many episodes at once, who goes first."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from .backends.base import Sampler
from .types import Episode

Play = Callable[[int, int, Sampler], Coroutine[Any, Any, list[Episode]]]


_STAGGER = 8  # turns of the event loop over which the groups of a batch begin


class Stopped(Exception):
    """Somebody asked the run to stop, and it waited for episodes: its weights are those of whole steps."""


class Rollouts:
    """Which batch is sampled from which weights. The whole rule: batch b from version max(0, b - max_lag).

    max_lag=0 is synchronous. No episode is older than max_lag by construction, so nothing is filtered,
    and the same seed gives the same episodes however fast anything is.
    """

    def __init__(
        self, play: Play, groups_per_step: int, max_lag: int, steps: range, stop: asyncio.Event
    ) -> None:
        """play: `(step, group, sampler) -> group of episodes`. steps: the batches that will be played.
        stop: set when somebody wants the run to end."""
        self._play, self._groups_per_step, self._max_lag = play, groups_per_step, max_lag
        self._steps = steps
        self._stopped = asyncio.create_task(stop.wait())
        self._batches: dict[int, list[asyncio.Task[list[Episode]]]] = {}
        self._samplers: dict[int, Sampler] = {}  # by step, of the batches not consumed yet

    def publish(self, sampler: Sampler) -> None:
        """Starts every batch that is meant for this version."""
        first = 0 if sampler.version == 0 else sampler.version + self._max_lag
        last = sampler.version + self._max_lag
        for step in range(max(first, self._steps.start), min(last + 1, self._steps.stop)):
            self._samplers[step] = sampler
            self._batches[step] = [
                asyncio.create_task(self._begin(step, group, sampler))
                for group in range(self._groups_per_step)
            ]

    async def _begin(self, step: int, group: int, sampler: Sampler) -> list[Episode]:
        # Were all groups to begin in one turn of the event loop, they would go on in step, and each of
        # their turns would hold it up for as long as all of them take.
        for _ in range(group % _STAGGER):
            await asyncio.sleep(0)
        return await self._play(step, group, sampler)

    def sampler(self, step: int) -> Sampler:
        """The weights that a batch which isn't consumed yet is sampled from."""
        return self._samplers[step]

    async def parts(self, step: int, n: int) -> AsyncIterator[list[list[Episode]]]:
        """The groups of one batch in n fixed ranges, in index order, each as soon as it is played.

        Raises what any of them raised, and `Stopped` when the run is asked to end while this waits.
        """
        tasks = self._batches[step]
        size = len(tasks) // n
        for at in range(0, len(tasks), size):
            part = asyncio.gather(*tasks[at : at + size])
            try:
                await asyncio.wait([part, self._stopped], return_when=asyncio.FIRST_COMPLETED)
                if self._stopped.done():
                    raise Stopped
            finally:
                await cancel([part])  # what is done stays as it is
            yield part.result()
        del self._batches[step], self._samplers[step]

    async def close(self) -> None:
        """Cancels what still plays and waits for it: no task outlives the loop."""
        tasks = [self._stopped, *(task for batch in self._batches.values() for task in batch)]
        self._batches.clear()
        await cancel(tasks)


class Gate:
    """At most `places` episodes play at once (0: all that there are); who waits goes in by its order."""

    def __init__(self, places: int = 0) -> None:
        self.places, self._free = places, places
        self._waiting: list[tuple[tuple[int, ...], int, int, asyncio.Future[None]]] = []
        self._came = 0

    @asynccontextmanager
    async def admit(self, n: int, order: tuple[int, ...]) -> AsyncIterator[None]:
        """Holds n of the places, or all of them for a table of more seats than there are."""
        n = min(n, self.places)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._came += 1
        heapq.heappush(self._waiting, (order, self._came, n, turn))
        self._let_in()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += n
            turn.cancel()
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and (self._waiting[0][3].cancelled() or self._waiting[0][2] <= self._free):
            _, _, n, turn = heapq.heappop(self._waiting)
            if not turn.cancelled():
                self._free -= n
                turn.set_result(None)


async def cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancels tasks and waits until each has ended, whatever it raises then."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
