"""A game of two seats, both the model's: Nim. Whoever takes the last stick wins.

    cookbook run core/rl env=two_seats:Nim --local steps=20 max_tokens=8 lr=3e-4

Each seat is an environment of its own; what they share, and where they wait for each other, is their `Game`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

import chz

from cookbook import EnvConfig, Step
from cookbook.errors import ConfigError


class Game:
    """One table: what its seats have in common, and where they wait for each other."""

    def __init__(self, sticks: int):
        self.sticks, self.moves, self.winner = sticks, 0, None
        self.changed = asyncio.Condition()

    async def turn(self, seat: int) -> None:
        """Waits until it is this seat's move, or the game is over."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.winner is not None or self.moves % 2 == seat)

    async def move(self, seat: int, said: str) -> None:
        """An illegal move ends the game against the one who made it."""
        async with self.changed:
            legal = said in ("1", "2", "3") and int(said) <= self.sticks
            self.sticks -= int(said) if legal else 0
            self.moves += 1
            if not legal:
                self.winner = 1 - seat
            elif self.sticks == 0:
                self.winner = seat
            self.changed.notify_all()


class Seat:
    """One player's episode."""

    def __init__(self, game: Game, seat: int):
        self.game, self.seat, self.moved = game, seat, False

    async def start(self):
        await self.game.turn(self.seat)
        rules = (
            "We take 1, 2 or 3 sticks in turn. Whoever takes the last one wins. Answer with a digit alone."
        )
        return [{"role": "user", "content": f"{rules} {self.game.sticks} sticks are left."}]

    async def step(self, reply):
        if self.game.winner is None:
            self.moved = True
            await self.game.move(self.seat, reply["content"].strip(" .\n"))
            await self.game.turn(self.seat)
        if self.game.winner is None:
            left = {"role": "user", "content": f"{self.game.sticks} sticks are left."}
            return Step(0.0, done=False, messages=[left])
        won = self.game.winner == self.seat
        if not self.moved:  # the other's first move was illegal: this reply has decided nothing
            return Step(None, done=True)
        return Step(1.0 if won else -1.0, done=True, correct=won)


@dataclass(frozen=True)
class Heap:
    """The task: a heap that the first to move can win."""

    sticks: int
    seats = 2

    def table(self):
        game = Game(self.sticks)
        return [Seat(game, 0), Seat(game, 1)]

    def oracle(self, messages):
        """Whoever leaves a multiple of four wins."""
        left = int(re.findall(r"(\d+) sticks", messages[-1]["content"])[-1])
        return str(left % 4 or 1)


@chz.chz(typecheck=True)
class Nim(EnvConfig):
    """Heaps of 5 sticks and more, none a multiple of four; every fifth is held out."""

    reward_range = (-1.0, 1.0)

    most: int = chz.field(default=15, doc="sticks in a heap")

    @chz.validate
    def _check(self):
        if not 6 <= self.most <= 40:
            raise ConfigError(f"most={self.most}: must be from 6 to 40")

    def tasks(self, split):
        heaps = [n for n in range(5, self.most + 1) if n % 4]
        heaps = {"train": [n for n in heaps if n % 5], "test": [n for n in heaps if not n % 5]}[split]
        return [Heap(n) for n in heaps]
