"""Plays held-out tasks without training: beside the steps of a run that trains, or as a run of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import chz

from .backends.base import Sampler, together
from .configs import preset
from .errors import ConfigError
from .kinds import Tracker
from .metrics import summarize
from .options import PlayConfig, tasks_of
from .preview import preview
from .rollout import Player
from .runs import Run
from .schedule import cancel
from .scores import of_tasks
from .types import Episode, Task


@dataclass(frozen=True, slots=True)
class Exam:
    """How held-out tasks are played: `samples` tables of each, by random streams keyed by (seed, "eval",
    number of the task, sample, seat, turn), so that neither the order of arrival nor how many tasks and
    samples there are changes what one of them is."""

    player: Player
    seed: int
    samples: int = 1

    async def play(
        self, tasks: Mapping[int, Task], sampler: Sampler, told: Callable[[int, list[Episode]], None]
    ) -> None:
        """One group a task, all at once. tasks: by number. told: hears of each task's episodes in the order
        of `tasks`, as soon as those before are played too. Raises the first error, all others cancelled."""
        order, played = iter(tasks), dict[int | None, list[Episode]]()
        heard = next(order, None)

        async def one(i: int) -> None:
            nonlocal heard
            key, place = (self.seed, "eval", i), (sampler.version, 1, i)
            played[i] = await self.player.group(tasks[i], self.samples, sampler, key, place)
            while heard is not None and heard in played:
                told(heard, played.pop(heard))
                heard = next(order, None)

        await together(one(i) for i in tasks)


async def evaluate(tasks: Sequence[Task], player: Player, sampler: Sampler, seed: int) -> dict[str, float]:
    """What one sample of each task gives."""
    episodes: list[Episode] = []
    await Exam(player, seed).play(dict(enumerate(tasks)), sampler, lambda _, group: episodes.extend(group))
    return summarize(episodes)


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


@chz.chz(typecheck=True)
class EvalConfig(PlayConfig):
    """One evaluation: `n` tasks of a split, each played `samples` times by fixed weights."""

    split: Literal["test", "train"] = chz.field(default="test", doc="whose tasks are played")
    n: int = chz.field(default=100, doc="tasks, from the first on; 0: all there are")
    samples: int = chz.field(default=1, doc="tables (episodes, with one seat) of each task")
    temperature: float = chz.field(
        default=1.0, doc="of the replies; 1: the policy that is trained, 0: greedy, as training evaluates"
    )

    @chz.validate
    def _check(self) -> None:
        self.at_least(0, "n", "temperature")
        self.at_least(1, "samples")

    def warnings(self) -> list[str]:
        """What can be done, and is likely not meant."""
        if self.samples > 1 and self.temperature == 0:
            return [
                f"samples={self.samples} with temperature=0 are the same reply again; temperature=1 varies"
            ]
        return []

    def tasks(self) -> Sequence[Task]:
        """Those that are played. Raises `ConfigError` where there are none."""
        tasks = tasks_of(self.env, self.split, self.n or None)
        if not len(tasks):
            other = "train" if self.split == "test" else "test"
            raise ConfigError(f"{type(self.env).__name__} has no {self.split} tasks; try split={other}")
        return tasks

    async def run(self, run: Run) -> None:
        """Plays, writes every transcript, task by task, and at the end what they say. A run that goes on
        plays the tasks that are missing. Writes nothing before everything that it needs has been found."""
        tasks, run.unit = self.tasks(), "task"
        async with self.service(run) as (service, loaded):
            where = {"model_path": loaded} if loaded else {"base_model": self.model}
            sampler = Sampler(await service.create_sampling_client(**where), version=0)
            renderer = self.render(run.record.get("renderer"))
            groups_P = run.replayed() if run.resumed else []
            facts = self.facts(renderer, loaded) | {"tasks": len(tasks)}
            run.begin(**facts, warnings=self.warnings(), trackers=self.trackers)

            def told(i: int, group: list[Episode]) -> None:
                groups_P.append(group)
                run.played(i, group)

            rest = {i: tasks[i] for i in range(len(groups_P), len(tasks))}
            exam = Exam(self.player(renderer, self.temperature), self.seed, self.samples)
            await exam.play(rest, sampler, told)
            row = {f"eval/{name}": value for name, value in of_tasks(groups_P).items()}
            run.evaluation(sampler.version, row)
            for tracker in run.trackers:
                tracker.evaluation(sampler.version, row)

    def console(self, run: Run) -> Tracker:
        """What a person sees of it."""
        from .evaluation_console import EvaluationConsole

        return EvaluationConsole(run)

    async def dry_run(self) -> str:
        """The prompts as they would be sampled from, and what all of it costs; plays nothing."""
        return await preview(self.render(), self.tasks(), self.samples, self.max_tokens, trains=False)


def recipe() -> chz.Blueprint:
    """Evaluation with nothing set: `env=` and `model=` are for the user to give."""
    return preset(EvalConfig, name="core/eval")
