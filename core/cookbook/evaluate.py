"""Plays held-out tasks without training."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from .backends.base import Sampler, together
from .metrics import summarize
from .rollout import Player
from .runs import Run
from .schedule import cancel
from .types import Task


async def evaluate(tasks: Sequence[Task], player: Player, sampler: Sampler, seed: int) -> dict[str, float]:
    """One group of one table a task, all at once; random streams keyed by (seed, task)."""
    groups = await together(
        player.group(task, 1, sampler, (seed, "eval", i), (sampler.version, 1, i))
        for i, task in enumerate(tasks)
    )
    return summarize([episode for group in groups for episode in group])


class Evaluations:
    """Evaluations beside the training steps, each on a named version, one at a time.

    Trackers hear of a result at once; the run's files get it at `collect`, in the order of the versions,
    so that they don't depend on how long an evaluation took.
    """

    def __init__(self, sets: Mapping[str, Sequence[Task]], player: Player, seed: int, run: Run) -> None:
        """sets: {prefix of the metrics: tasks}."""
        self._sets = {name: tasks for name, tasks in sets.items() if len(tasks)}
        self._player, self._seed, self._run = player, seed, run
        self._playing: tuple[int, asyncio.Task[dict[str, float]]] | None = None

    async def start(self, sampler: Sampler) -> None:
        """Begins to play on these weights, after what played before has been written."""
        await self.collect()
        if self._sets:
            self._playing = sampler.version, asyncio.create_task(self._evaluate(sampler))

    async def collect(self) -> None:
        """Waits for what is playing, and writes it."""
        if self._playing is not None:
            version, task = self._playing
            row = await task
            self._playing = None
            self._run.evaluation(version, row)

    async def close(self) -> None:
        if self._playing is not None:
            await cancel([self._playing[1]])

    async def _evaluate(self, sampler: Sampler) -> dict[str, float]:
        row: dict[str, float] = {}
        for prefix, tasks in self._sets.items():
            result = await evaluate(tasks, self._player, sampler, self._seed)
            row |= {f"{prefix}/{name}": value for name, value in result.items()}
        for tracker in self._run.trackers:
            tracker.evaluation(sampler.version, row)
        return row
