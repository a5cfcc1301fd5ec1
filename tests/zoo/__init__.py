"""Environments with one fault each, and healthy ones, for the tests of `cookbook check`.

A faulty one is a healthy one of this module but for its fault, and says which rule that breaks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import chz

from cookbook import EnvConfig, Grade, Question, Step


@dataclass(frozen=True)
class Animal:
    """env: the config class. rules: what it breaks: one, but for those that can't break it alone.
    says: stands in the example. by_id: whether it is checked by its name, which looks at more, and takes
    longer. patience_s: how long a call of it may take."""

    env: type[EnvConfig]
    rules: frozenset[str]
    says: str
    by_id: bool
    patience_s: float

    @property
    def id(self) -> str:
        return f"{self.env.__module__}:{self.env.__name__}"


FAULTY: dict[str, Animal] = {}
HEALTHY: dict[str, Animal] = {}


def breaks(*rules: str, says: str = "", by_id: bool = False, patience_s: float = 10) -> Callable[[Any], Any]:
    """Above a config class: the rule that it breaks; several only where it says why in its docstring."""

    def keep(env: Any) -> Any:
        FAULTY[env.__name__] = Animal(env, frozenset(rules), says, by_id, patience_s)
        return env

    return keep


def healthy(env: Any) -> Any:
    """Above a config class that breaks nothing."""
    options = len(chz.chz_fields(env)) > 0  # those are worth a look in another process
    HEALTHY[env.__name__] = Animal(env, frozenset(), "", options, 10)
    return env


@dataclass(frozen=True)
class Judge:
    """The grader of a `Sums`: what its config says."""

    config: Sums

    def grade(self, prompt, reply, reference):
        return self.config.judge(reply["content"], reference)


@chz.chz
class Sums(EnvConfig):
    """Sums of two numbers, each in one split. A faulty environment changes one of the methods."""

    def tasks(self, split: str) -> Sequence[Any]:
        return [self.task(i) for i in {"train": range(40), "test": range(40, 60)}[split]]

    def task(self, i: int) -> Any:
        return Question(self.prompt(i), self.answer(i), Judge(self))

    def prompt(self, i: int) -> Any:
        return f"What is {10 + i} + {3 * i}? Say the number alone."

    def answer(self, i: int) -> Any:
        return str(10 + 4 * i)

    def judge(self, text: str, reference: Any) -> Any:
        return Grade(text.strip() == reference)


@chz.chz
class Labels(Sums):
    """What is read is one of a few words."""

    words = ("yes", "no")

    def prompt(self, i: int) -> Any:
        return f"Sentence {i}: the {random.Random(i).choice(CREATURES)} sleeps. Is it long? Say yes or no."

    def answer(self, i: int) -> Any:
        return self.words[i % len(self.words)]


CREATURES = ("heron", "otter", "marten", "newt", "stoat")


@dataclass
class Hidden:
    """The task of `Guesses`: a number of four."""

    config: Guesses
    i: int
    number: int

    def table(self) -> list[Any]:
        return self.config.table(self)

    def oracle(self, messages: Sequence[Any]) -> str:
        return str(self.number)


class Guess:
    """An episode of three guesses. A faulty environment changes one of the methods."""

    def __init__(self, task: Hidden) -> None:
        self.task, self.left = task, 3

    async def start(self) -> Any:
        return [{"role": "user", "content": self.opening()}]

    def opening(self) -> str:
        return f"Box {self.task.i} holds 1 to 6 pearls. How many?"

    async def step(self, reply: Any) -> Any:
        self.left -= 1
        right = reply["content"].strip() == str(self.task.number)
        if right or not self.left:
            return Step(float(right), done=True, correct=right)
        return Step(0.0, done=False, messages=[{"role": "user", "content": self.hint(reply["content"])}])

    def hint(self, text: str) -> str:
        return f"No. {self.left} left."


@chz.chz
class Guesses(EnvConfig):
    """Several turns; episodes of a class `Guess`, which a faulty environment derives from."""

    episode = Guess

    def tasks(self, split: str) -> Sequence[Any]:
        return [self.task(i) for i in {"train": range(40), "test": range(40, 60)}[split]]

    def task(self, i: int) -> Any:
        return Hidden(self, i, random.Random(i).randint(1, 6))

    def table(self, task: Hidden) -> list[Any]:
        return [self.episode(task)]
