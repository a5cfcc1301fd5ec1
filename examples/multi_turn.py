"""An environment of several turns: a number to be guessed, with a hint after each guess.

    cookbook run core/rl env=multi_turn:Guessing --local steps=20 max_tokens=8 lr=3e-4

A task is what a group of episodes has in common; it makes an environment for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import chz

from cookbook import EnvConfig, Step
from cookbook.errors import ConfigError
from cookbook.streams import shuffled, stream


@dataclass(frozen=True)
class Number:
    """The task: seven numbers from `low` on, one of which is meant. All episodes of a group share it."""

    low: int
    number: int
    tries: int

    def table(self):
        return [Guess(self)]  # a new one each time: an environment is played once

    def oracle(self, messages):
        return str(self.number)


class Guess:
    """One episode."""

    def __init__(self, task: Number):
        self.task, self.left = task, task.tries

    async def start(self):
        low, tries = self.task.low, self.task.tries
        told = f"I think of a number from {low} to {low + 6}. You have {tries} guesses; say a number alone."
        return [{"role": "user", "content": told}]

    async def step(self, reply):
        self.left -= 1
        said = reply["content"].strip(" .\n")
        right = said == str(self.task.number)
        if right or not self.left:
            return Step(
                float(right), done=True, correct=right, metrics={"guesses": self.task.tries - self.left}
            )
        known = said.isascii() and said.isdigit() and len(said) < 10
        hint = ("Lower." if int(said) > self.task.number else "Higher.") if known else "That is no number."
        return Step(0.0, done=False, messages=[{"role": "user", "content": hint}])


@chz.chz(typecheck=True)
class Guessing(EnvConfig):
    """140 ranges of seven numbers, a quarter of them held out; three guesses are always enough."""

    tries: int = chz.field(default=3, doc="guesses in an episode")

    @chz.validate
    def _check(self):
        if not 1 <= self.tries <= 16:
            raise ConfigError(f"tries={self.tries}: must be from 1 to 16")

    def tasks(self, split):
        lows = [10 + 7 * shuffled(i, 140, "multi_turn") for i in range(140)]
        lows = {"train": lows[35:], "test": lows[:35]}[split]
        return [Number(low, low + stream("multi_turn", low) % 7, self.tries) for low in lows]
