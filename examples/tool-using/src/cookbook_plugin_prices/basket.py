"""Baskets of two kinds of things, the tools of a shop, and the grader of one number."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Annotated, Any, Literal

import chz
from pydantic import Field

from cookbook import EnvConfig, Grade, Message, Question
from cookbook.streams import shuffled

GOODS = ("apples", "beans", "candles", "eggs", "figs", "grapes", "jars", "lemons", "nails", "olives", "pears")
BASKETS = [
    (*kinds, *counts) for kinds in combinations(GOODS, 2) for counts in product(range(2, 10), repeat=2)
]
HELD_OUT = 500
ASK = "What do {} {} and {} {} cost together? Answer with the number of cents alone."

Operand = Annotated[int, Field(ge=-(10**9), le=10**9)]


@dataclass(frozen=True)
class Shop:
    """A price list; its bound method is the tool."""

    prices: dict[str, int]

    async def price(self, item: str) -> int:
        """Tells what one piece of an item costs, in cents.

        Args:
            item: in the plural, "apples" say
        """
        if item not in self.prices:
            raise ValueError("there is no such item in the shop")  # told to the model
        return self.prices[item]


async def calculate(left: Operand, operator: Literal["+", "-", "*"], right: Operand) -> int:
    """Calculates with two whole numbers."""
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def _called(id: str, **arguments: str) -> dict[str, Any]:
    function = {"name": "price", "arguments": json.dumps(arguments)}
    return {"id": id, "type": "function", "function": function}


# A basket that no task has, worked out: a model that has seen no call makes none, and learns nothing.
EXAMPLE = [
    Message(role="user", content=ASK.format(2, "quinces", 3, "spoons")),
    Message(
        role="assistant", content="", tool_calls=[_called("1", item="quinces"), _called("2", item="spoons")]
    ),
    Message(role="tool", tool_call_id="1", name="price", content="5"),
    Message(role="tool", tool_call_id="2", name="price", content="2"),
    Message(role="assistant", content="16"),
]


class OneNumber:
    """Right where the reply has one number, and it is the reference."""

    def grade(self, prompt: Sequence[Message], reply: Message, reference: Any) -> Grade:
        numbers = re.findall(r"[0-9]{1,9}", reply["content"])
        return Grade(numbers == [str(reference)])


@chz.chz(typecheck=True)
class Basket(EnvConfig):
    """ "What do 3 apples and 2 pears cost together?", prices by a tool."""

    highest: int = chz.field(default=20, doc="price of one piece, in cents, at most")

    def tasks(self, split: str) -> Sequence[Question]:
        """The baskets of "train" or "test", which share none. Raises ValueError for another split."""
        if split not in ("train", "test"):
            raise ValueError(f"prices/basket has the splits train and test, not {split!r}")
        order = [shuffled(i, len(BASKETS), "prices/basket") for i in range(len(BASKETS))]
        return [self._question(i) for i in (order[:HELD_OUT] if split == "test" else order[HELD_OUT:])]

    def _question(self, i: int) -> Question:
        one, other, m, n = BASKETS[i]
        rng = random.Random(f"prices/basket {i}")  # its own, and the same whenever it is made
        shop = Shop({item: rng.randint(1, self.highest) for item in GOODS})
        ask = Message(role="user", content=ASK.format(m, one, n, other))
        return Question(
            [*EXAMPLE, ask],
            reference=m * shop.prices[one] + n * shop.prices[other],
            grader=OneNumber(),
            tools=(shop.price, calculate),
        )
