"""L1: what doesn't build, start, step or close as it should."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import chz

from cookbook import Step
from cookbook.types import Start

from . import Guess, Guesses, Sums, breaks


@breaks("L1.build", says="largest", by_id=True)
@chz.chz
class NeedsAnOption(Sums):
    largest: int


@breaks("L1.build", says="ZeroDivisionError", by_id=True)
@chz.chz
class DividesByItsDefault(Sums):
    parts: int = 0

    @chz.init_property
    def share(self) -> float:
        return 1 / self.parts


@breaks("L1.build", says="reward_range = (1.0, 0.0) is no range")
@chz.chz
class RangeBackwards(Sums):
    reward_range = (1.0, 0.0)


@breaks("L1.tasks", says="gave generator, not a sequence")
@chz.chz
class YieldsTasks(Sums):
    def tasks(self, split):
        return (self.task(i) for i in range(10))


@breaks("L1.tasks", says="holds dict, not Task")
@chz.chz
class RowsForTasks(Sums):
    def tasks(self, split):
        return [{"question": self.prompt(i), "answer": self.answer(i)} for i in range(10)]


@breaks("L1.tasks", says="KeyError: 'test'")
@chz.chz
class KnowsOneSplit(Sums):
    def tasks(self, split):
        return [self.task(i) for i in {"train": range(10)}[split]]


@breaks("L1.tasks", says="is empty")
@chz.chz
class TrainsOnNothing(Sums):
    def tasks(self, split):
        return [] if split == "train" else super().tasks(split)


class _Broken(list):
    def __getitem__(self, i):
        return super().__getitem__({0: 0, 1: 1}[i])


@breaks("L1.tasks", says="one of its 40: KeyError: 2")
@chz.chz
class FailsFarIn(Sums):
    """A lazy split of which only the first tasks can be made."""

    def tasks(self, split):
        return _Broken(super().tasks(split))


@breaks("L1.held-out", says="is empty")
@chz.chz
class HoldsNothingOut(Sums):
    def tasks(self, split):
        return super().tasks(split) if split == "train" else []


@breaks("L1.config-json", by_id=True)
@chz.chz
class OptionOfASet(Sums):
    kinds: frozenset[str] = frozenset({"sum"})


@breaks("L1.typed-errors", says="step=0", by_id=True)
@chz.chz
class RangeOfAnOption(Sums):
    step: int = 1

    def tasks(self, split):
        return [
            self.task(i) for i in range(1000) if (i % self.step == 0) and (i % 4 == 0) == (split == "test")
        ]


@breaks("L1.table", says="gave 0 environments, seats=1")
@chz.chz
class EmptyTable(Guesses):
    def table(self, task):
        return []


@breaks("L1.table", says="AttributeError")
@chz.chz
class TableNeedsAFile(Guesses):
    def table(self, task):
        return [task.board]


class _Itself(Guess):
    async def start(self):
        self.left = 3
        return await super().start()

    def table(self):
        return [self]


@breaks("L1.fresh", "L2.interleaved", says="gave one _Itself twice")
@chz.chz
class TaskIsItsEpisode(Guesses):
    """table() returns self, so the episodes of a group share their guesses, as interleaving shows too."""

    def task(self, i):
        return _Itself(super().task(i))


class _PlainStart(Guess):
    def start(self) -> Any:  # type: ignore[override]
        return [{"role": "user", "content": self.opening()}]


@breaks("L1.start", says="write `async def start`")
@chz.chz
class PlainStart(Guesses):
    episode = _PlainStart


class _TextStart(Guess):
    async def start(self):
        return self.opening()


@breaks("L1.start", says="gave str, not a list of messages")
@chz.chz
class StartsWithAText(Guesses):
    episode = _TextStart


class _NoServer(Guess):
    async def start(self):
        raise ConnectionError("no sandbox at localhost:8000")


@breaks("L1.start", says="ConnectionError")
@chz.chz
class NeedsAServer(Guesses):
    episode = _NoServer


class _Waits(Guess):
    async def start(self):
        await asyncio.Event().wait()


@breaks("L1.start", says="start() waited for more than", patience_s=0.5)
@chz.chz
class NeverStarts(Guesses):
    episode = _Waits


class _AnswersItself(Guess):
    async def start(self):
        return [*await super().start(), {"role": "assistant", "content": "I think"}]


@breaks("L1.opening", says="ends with assistant")
@chz.chz
class AnswersItself(Guesses):
    episode = _AnswersItself


@breaks("L1.opening", says="ends with nothing")
@chz.chz
class NothingToAnswer(Sums):
    def prompt(self, i):
        return []


@breaks("L1.renders", says="human")
@chz.chz
class HumanRole(Sums):
    def prompt(self, i):
        return [{"role": "human", "content": super().prompt(i)}, {"role": "user", "content": "Well?"}]


class _Silent(Guess):
    async def step(self, reply):
        return Step(0.0, done=False)


@breaks("L1.step", says="without a message to reply to")
@chz.chz
class SaysNothing(Guesses):
    episode = _Silent


class _Gym(Guess):
    async def step(self, reply):
        return "observation", 0.0, True, False, {}


@breaks("L1.step", says="gave tuple, not a cookbook.Step")
@chz.chz
class GymnasiumStep(Guesses):
    episode = _Gym


class _PlainStep(Guess):
    def step(self, reply):  # type: ignore[override]
        return Step(0.0, done=True)


@breaks("L1.step", says="write `async def step`")
@chz.chz
class PlainStep(Guesses):
    episode = _PlainStep


class _Exits(Guess):
    async def step(self, reply):
        raise SystemExit(reply["content"])


@breaks("L1.step", says="called sys.exit")
@chz.chz
class ExitsOnEveryReply(Guesses):
    episode = _Exits


class _OnlyNumbers(Guess):
    async def step(self, reply):
        int(reply["content"].strip("[]"))
        return await super().step(reply)


@breaks("L1.raises", says="ValueError: invalid literal for int()")
@chz.chz
class TakesNumbersAlone(Guesses):
    episode = _OnlyNumbers


class _Caller(Guess):
    async def start(self):
        tool = {"name": "weigh", "description": "Weighs the box.", "parameters": {"type": "object"}}
        return Start(await super().start(), [{"type": "function", "function": tool}])

    async def step(self, reply):
        assert reply["tool_calls"]
        return await super().step(reply)


@breaks("L1.raises", says="KeyError: 'tool_calls'")
@chz.chz
class ExpectsACall(Guesses):
    episode = _Caller


class _Closes(Guess):
    async def start(self):
        self.page = SimpleNamespace(close=lambda: None)
        return await super().start()

    async def close(self):
        self.page.close()


@breaks("L1.close", says="before start(): AttributeError")
@chz.chz
class ClosesWhatItStarted(Guesses):
    episode = _Closes


class _PlainClose(Guess):
    def close(self):
        pass


@breaks("L1.close", says="write `async def close`")
@chz.chz
class PlainClose(Guesses):
    episode = _PlainClose
