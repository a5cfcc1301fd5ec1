"""What things cost. No model knows, but it has a tool that does."""

from __future__ import annotations

import random
from collections.abc import Sequence

import chz

from cookbook import EnvConfig, Message, Question

from .grader import Exact

# 1. Put your own material here, or read it in `tasks`. Nothing that is trained on is held out.
THINGS = {
    "train": """anchor apple basket bottle bread bridge butter candle carpet castle chair cloud coat cup desk
        dragon drum engine feather flag flute garden grape hammer hat house island jacket kettle kitten ladder
        lamp lemon mirror needle orange pencil piano ring rope""".split(),
    "test": """pepper quilt rabbit rocket saddle school shoe silver spoon stone table temple tiger tunnel
        violin wagon window yogurt zebra button""".split(),
}
_ALL = [*THINGS["train"], *THINGS["test"], "pillow"]
PRICES = dict(zip(_ALL, random.Random("prices").sample(range(100, 1000), len(_ALL)), strict=True))


def price(thing: str) -> int:
    """What a thing costs.

    Args:
        thing: its name, one word
    """
    # 2. A tool is a function with types: its declaration is made of them and of the docstring. It may be
    # async. What it raises as ValueError is told to the model; anything else is a fault of yours.
    if thing not in PRICES:
        raise ValueError("nobody sells that")
    return PRICES[thing]


# 3. A question with a call and its answer, before each. A model that is never right learns nothing: the
# reward of the first steps must lie above 0.
CALL = {"id": "1", "type": "function", "function": {"name": "price", "arguments": '{"thing": "pillow"}'}}
EXAMPLE = [
    Message(role="user", content="What does the pillow cost?"),
    Message(role="assistant", content="", tool_calls=[CALL]),
    Message(role="tool", content=str(PRICES["pillow"]), tool_call_id="1", name="price"),
    Message(role="assistant", content=str(PRICES["pillow"])),
]


@chz.chz(typecheck=True)
class Prices(EnvConfig):
    """The price of a thing, to be asked of a tool and to be answered as a number."""

    example: bool = chz.field(default=True, doc="whether one is shown first")  # 4. `env.example=false`

    def tasks(self, split: str) -> Sequence[Question]:
        """The questions of "train" or of "test", one a thing."""
        return [self._question(thing) for thing in THINGS[split]]

    def _question(self, thing: str) -> Question:
        ask = Message(role="user", content=f"What does the {thing} cost?")
        prompt = [*EXAMPLE, ask] if self.example else [ask]
        # 5. What is asked, what is right, who judges (grader.py), and the functions that may be called.
        return Question(prompt, reference=str(PRICES[thing]), grader=Exact(), tools=(price,))
