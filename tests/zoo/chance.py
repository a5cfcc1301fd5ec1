"""L2: what comes out otherwise the second time, beside others, or elsewhere; and what is in both splits."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass
from typing import Any

import chz
import numpy as np

from cookbook import Question, Step

from . import CREATURES, Guess, Guesses, Judge, Sums, breaks


@breaks("L2.prompts", says="built twice, a task begins")
@chz.chz
class DrawsItsTasks(Sums):
    def tasks(self, split):
        return [self.task(random.randrange(10**6) + (split == "test") * 10**6) for _ in range(30)]


@breaks("L2.prompts", says="built twice")
@chz.chz
class ShufflesInPlace(Sums):
    """The list is the module's: each build shuffles what the one before has shuffled."""

    pool = list(range(40))

    def tasks(self, split):
        if split == "test":
            return [self.task(i) for i in range(40, 60)]
        random.Random(0).shuffle(self.pool)
        return [self.task(i) for i in self.pool]


@breaks("L2.prompts", says="It is")
@chz.chz
class TellsTheTime(Sums):
    def prompt(self, i):
        return f"It is {time.time_ns()}. {super().prompt(i)}"


class _Drawn(Guess):
    async def start(self):
        return [
            {"role": "user", "content": f"Box {self.task.i} of {random.random()} holds pearls. How many?"}
        ]


@breaks("L2.prompts", says="built twice")
@chz.chz
class DrawsAtStart(Guesses):
    """What start() draws isn't the same for the episodes of one group either."""

    episode = _Drawn


@breaks("L2.prompts", says="built twice")
@chz.chz
class CountsOnTheClass(Sums):
    built = itertools.count()

    def tasks(self, split):
        n = next(self.built)
        return [self.task(i + 1000 * n) for i in range(30)]


_ROWS = iter([(10 + i, i) for i in range(40)])


@breaks("L1.held-out", "L2.order", says="there are 24 tasks to look at and then 0")
@chz.chz
class ReadsAStreamOnce(Sums):
    """Whoever comes first takes all, so that nothing is left for the test split either."""

    rows = _ROWS

    def tasks(self, split):
        return [self.task(a) for a, _ in self.rows]


class _InTurn:
    def __init__(self, config: Any, first: int) -> None:
        self.config, self.first, self.chance = config, first, random.Random(first)

    def __len__(self):
        return 1000

    def __getitem__(self, i):
        return self.config.task(self.first + self.chance.randrange(10**6))


@breaks("L2.order", says="a task begins")
@chz.chz
class DrawsAsItIsRead(Sums):
    """Lazy, with one generator for all: task 7 is another one where it is read first."""

    def tasks(self, split):
        return _InTurn(self, 0 if split == "train" else 10**7)


class _Cursor:
    def __init__(self, config: Any) -> None:
        self.config, self.at = config, {"train": 0, "test": 10**6}

    def split(self, split):
        self.at["train"] += split == "test"
        return [self.config.task(self.at[split] + i) for i in range(30)]


@breaks("L2.order", says="read from the last on")
@chz.chz
class OneSplitMovesTheOther(Sums):
    @chz.init_property
    def cursor(self) -> Any:
        return _Cursor(self)

    def tasks(self, split):
        if split == "train" and self.cursor.at["train"] > 1:
            return self.cursor.split(split)
        return super().tasks(split) if split == "train" else self.cursor.split(split)


@breaks("L2.processes", says="PYTHONHASHSEED", by_id=True)
@chz.chz
class NamesASet(Sums):
    def prompt(self, i):
        return f"Of {', '.join({f'{c} {i}' for c in CREATURES})}: what is 10 + {4 * i}?"


@breaks("L2.processes", says="PYTHONHASHSEED", by_id=True)
@chz.chz
class SplitsByHash(Sums):
    def tasks(self, split):
        return [self.task(i) for i in range(400) if (hash(f"{i}") % 4 == 0) == (split == "test")]


class _Learns(Guess):
    async def start(self):
        self.task.number = self.task.number % 6 + 1
        return await super().start()


@breaks("L2.replay", says="and then")
@chz.chz
class ChangesItsTask(Guesses):
    episode = _Learns


class _Counts(Guess):
    played = itertools.count()

    def hint(self, text):
        return f"No, in game {next(self.played)}."


@breaks("L2.replay", says="game")
@chz.chz
class CountsItsEpisodes(Guesses):
    episode = _Counts


class _Clock(Guess):
    def hint(self, text):
        return f"No, after {time.perf_counter_ns()} ns."


@breaks("L2.replay", says="ns")
@chz.chz
class AnswersWithTheClock(Guesses):
    episode = _Clock


class _Dice(Guess):
    def hint(self, text):
        return f"No. You roll {random.randrange(10**6)}."


@breaks("L2.global-random", says="You roll")
@chz.chz
class RollsGlobalDice(Guesses):
    episode = _Dice


class _NumpyDice(Guess):
    def hint(self, text):
        return f"No. You roll {np.random.randint(10**6)}."


@breaks("L2.global-random", says="You roll")
@chz.chz
class RollsNumpyDice(Guesses):
    episode = _NumpyDice


class _Seeds(_Dice):
    async def start(self):
        random.seed(self.task.i)
        return await super().start()


@breaks("L2.interleaved", says="You roll")
@chz.chz
class SeedsTheWorld(Guesses):
    """As TextArena: alone it repeats to the bit."""

    episode = _Seeds


class _SeedsNumpy(_NumpyDice):
    async def start(self):
        np.random.seed(self.task.i)
        return await super().start()


@breaks("L2.interleaved", says="You roll")
@chz.chz
class SeedsNumpy(Guesses):
    episode = _SeedsNumpy


class _Current(Guess):
    left_of_all = [3]

    async def start(self):
        self.left_of_all[0] = 3
        return await super().start()

    async def step(self, reply):
        self.left_of_all[0] -= 1
        self.left = self.left_of_all[0] + 1
        return await super().step(reply)


@breaks("L2.interleaved", says="beside others")
@chz.chz
class OneBoardForAll(Guesses):
    """The game is the module's: right as long as one is played at a time."""

    episode = _Current


@breaks("L2.pickle", says="lambda")
@chz.chz
class ChecksWithALambda(Sums):
    def task(self, i):
        return Question(self.prompt(i), lambda text: text == str(10 + 4 * i), Judge(self), super().answer(i))

    def judge(self, text, reference):
        return super().judge(str(reference(text.strip())), "True")


@breaks("L2.leak", says="held-out tasks (100%) train too")
@chz.chz
class OneSplit(Sums):
    def tasks(self, split):
        return [self.task(i) for i in range(40)]


@breaks("L2.leak", says="999 of 1000 held-out tasks (100%)")
@chz.chz
class SeedsOfNeighbours(Sums):
    """As reasoning-gym: item i of a seed is made from seed + i, and the splits' seeds are 0 and 1."""

    def tasks(self, split):
        seed = {"train": 0, "test": 1}[split]
        return [self.task(seed + i) for i in range(1000)]


@breaks("L2.leak", says="(25%)")
@chz.chz
class TakesADuplicateApart(Sums):
    """Duplicates of the data fall into both splits."""

    def tasks(self, split):
        return [self.task(i) for i in (range(40) if split == "train" else [*range(5), *range(100, 115)])]


@dataclass
class Item:
    """A task that knows where it stands, which makes each another one."""

    split: str
    index: int
    config: Any
    a: int

    def table(self):
        return [_Once(self)]


class _Once:
    def __init__(self, task: Item) -> None:
        self.task = task

    async def start(self):
        return [{"role": "user", "content": self.task.config.prompt(self.task.a)}]

    async def step(self, reply):
        right = reply["content"] == self.task.config.answer(self.task.a)
        return Step(float(right), done=True, correct=right)


@breaks("L2.leak", says="held-out tasks (100%) train too")
@chz.chz
class NumbersItsTasks(Sums):
    def tasks(self, split):
        return [Item(split, i, self, i) for i in range(40)]
