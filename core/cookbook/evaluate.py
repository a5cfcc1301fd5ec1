"""Plays held-out tasks without training."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from .backends.base import Sampler
from .rollout import Player, cancel, together
from .runs import Run
from .types import Episode, Task


async def evaluate(tasks: Sequence[Task], player: Player, sampler: Sampler, seed: int) -> dict[str, float]:
    """One group of one table a task, all at once; random streams keyed by (seed, task)."""
    groups = await together(player.group(task, 1, sampler, (seed, "eval", i)) for i, task in enumerate(tasks))
    return summarize([episode for group in groups for episode in group])


def summarize(episodes: Sequence[Episode]) -> dict[str, float]:
    """Right, wrong and undecided told apart.

    n: episodes. correct: share of right among those with a verdict, with its standard error
    sqrt(p (1 - p) / n) of the binomial; left out where no episode has a verdict. reward: mean over the
    episodes that have one.
    """
    verdicts = [e.correct for e in episodes if e.correct is not None]
    rewards = [e.reward for e in episodes if e.reward is not None]
    row: dict[str, float] = {}
    if rewards:
        row["reward"] = sum(rewards) / len(rewards)
    if verdicts:
        p = sum(verdicts) / len(verdicts)
        row |= {"correct": p, "correct_se": math.sqrt(p * (1 - p) / len(verdicts))}
    return row | {"undecided": len(episodes) - len(verdicts), "n": len(episodes)}


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
            self._run.write(version, row)

    async def close(self) -> None:
        if self._playing is not None:
            await cancel([self._playing[1]])

    async def _evaluate(self, sampler: Sampler) -> dict[str, float]:
        row: dict[str, float] = {"version": sampler.version}
        for prefix, tasks in self._sets.items():
            result = await evaluate(tasks, self._player, sampler, self._seed)
            row |= {f"{prefix}/{name}": value for name, value in result.items()}
        self._run.track(sampler.version, row)
        return row
