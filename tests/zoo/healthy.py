"""What breaks nothing."""

from __future__ import annotations

import asyncio
import random

import chz
import numpy as np

from cookbook import Grade, Question, Step

from . import Guess, Guesses, Labels, Sums, healthy
from .rewards import Duels

for _base in (Sums, Labels, Guesses, Duels):
    healthy(_base)


PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)


class _Lazy:
    def __init__(self, config, first, n):
        self.config, self.first, self.n = config, first, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return self.config.task(self.first + i)


@healthy
@chz.chz
class AMillion(Sums):
    def tasks(self, split):
        return _Lazy(self, 0, 10**6) if split == "train" else _Lazy(self, 10**6, 1000)


@healthy
@chz.chz
class NearlyBalanced(Labels):
    """Yes to 55 of 100."""

    words = tuple("yes" if i * 11 % 20 < 11 else "no" for i in range(20))


@healthy
@chz.chz
class BelowZero(Sums):
    reward_range = (-1.0, 1.0)

    def judge(self, text, reference):
        return Grade(text.strip() == reference, 1.0 if text.strip() == reference else -1.0)


@healthy
@chz.chz
class Shaped(Sums):
    """The nearer the better."""

    def judge(self, text, reference):
        text = text.strip()
        if not (text.isascii() and text.isdigit() and len(text) < 9):
            return Grade(False)
        away = abs(int(text) - int(reference))
        return Grade(away == 0, max(0.0, 1 - away / 10))


class _Async:
    def __init__(self, config):
        self.config = config

    async def grade(self, prompt, reply, reference):
        await asyncio.sleep(0)
        return self.config.judge(reply["content"], reference)


@healthy
@chz.chz
class AsksLater(Sums):
    def task(self, i):
        return Question(self.prompt(i), self.answer(i), _Async(self))


@healthy
@chz.chz
class Few(Sums):
    def tasks(self, split):
        return [self.task(i) for i in (range(3) if split == "train" else range(3, 5))]


@healthy
@chz.chz
class LongPrompts(Sums):
    def prompt(self, i):
        return "Read all of this. " * 2000 + super().prompt(i)


@healthy
@chz.chz
class WithAnImage(Sums):
    def prompt(self, i):
        image = {
            "type": "image",
            "image": PNG,
        }
        return [{"role": "user", "content": [image, {"type": "text", "text": super().prompt(i)}]}]


@healthy
@chz.chz
class FewShot(Sums):
    def prompt(self, i):
        shots = [("user", "What is 1 + 1?"), ("assistant", "2"), ("user", super().prompt(i))]
        return [{"role": role, "content": text} for role, text in [("system", "You add numbers."), *shots]]


@healthy
@chz.chz
class NumpyOfItsOwn(Sums):
    seed: int = 3

    def prompt(self, i):
        return f"{super().prompt(i)} ({np.random.default_rng([abs(self.seed), i]).integers(1000)})"


@healthy
@chz.chz
class UndecidedNowAndThen(Sums):
    def judge(self, text, reference):
        return Grade("undecided") if text.strip() in ("A", "B") else super().judge(text, reference)


@healthy
@chz.chz
class NoOracle(Sums):
    """Several answers are right, and none is said to be."""

    def answer(self, i):
        return (super().answer(i), f"{super().answer(i)}.0")

    def judge(self, text, reference):
        return Grade(text.strip() in reference)


@chz.chz
class Bounds:
    low: int = 10
    high: int = 99


@healthy
@chz.chz
class NestedOptions(Sums):
    bounds: Bounds = chz.field(default_factory=Bounds)
    words: tuple[str, ...] = ("plus", "and")
    rate: float = 0.5

    def prompt(self, i):
        return f"What is {10 + i} {self.words[i % len(self.words)]} {3 * i}?"


class _OwnDice(Guess):
    def __init__(self, task):
        super().__init__(task)
        self.dice = random.Random(task.i)

    def hint(self, text):
        return f"No. You roll {self.dice.randrange(10**6)}."


@healthy
@chz.chz
class DiceOfItsOwn(Guesses):
    episode = _OwnDice


class _Closes(Guess):
    page = None

    async def start(self):
        self.page = []
        return await super().start()

    async def close(self):
        if self.page is not None:
            self.page.clear()


@healthy
@chz.chz
class ClosesWhatThereIs(Guesses):
    episode = _Closes


class _Truths(Guess):
    async def step(self, reply):
        right = reply["content"].strip() == str(self.task.number)
        return Step(right, done=True, correct=right, metrics={"length": len(reply["content"])})


@healthy
@chz.chz
class RewardsTruths(Guesses):
    """A truth value is a number."""

    episode = _Truths


@healthy
@chz.chz
class Unicode(Labels):
    words = ("\u00fcber", "\u03c0", "\u6f22\u5b57", "\U0001f98a")
    names = ("Fuchs \U0001f98a", "\u6f22", "na\u00efve")

    def prompt(self, i):
        return f"{self.names[i % 3]} {i}: welches Wort?"


def weigh(box: str) -> int:
    """Weighs a box."""
    return len(box)


@healthy
@chz.chz
class WithTools(Sums):
    def task(self, i):
        question = super().task(i)
        return Question(question.prompt, question.reference, question.grader, tools=(weigh,))
