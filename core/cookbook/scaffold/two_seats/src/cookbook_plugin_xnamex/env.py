"""Two players: one knows a word and gives a hint, the other chooses a word. Both win or neither."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import chz

from cookbook import Env, EnvConfig, Message, Step
from cookbook.errors import ConfigError

# 1. Put your own material here, or read it in `tasks`. Nothing that is trained on is held out.
WORDS = {
    "train": """anchor apple autumn basket bottle bread bridge butter candle castle chair cloud copper dance
        dragon eagle engine feather flame forest garden ginger grape hammer harbor house insect island jacket
        jungle kettle kitten ladder lemon mirror mountain needle ocean orange pencil""".split(),
    "test": """pepper queen quilt rabbit river rocket saddle school shadow silver spider spoon stone summer
        table temple tiger tunnel uncle valley village violin wagon window winter wizard yellow yogurt zebra
        button camera carpet coffee pillow market planet potato rainbow ribbon""".split(),
}
# 2. What each player sees first. An example before it, since a model that never wins learns nothing.
HINT, CHOOSE = "The word is {word}. Give a hint.", "The hint: {hint}\nWhich word is it: {words}?"
HINT_EXAMPLE = [
    Message(role="user", content=HINT.format(word="sky")),
    Message(role="assistant", content="A blue sky."),
]
CHOOSE_EXAMPLE = [
    Message(role="user", content=CHOOSE.format(hint="A blue sky.", words="sun, sky, rain")),
    Message(role="assistant", content="sky"),
]
MAX_HINT = 200  # characters that the other player is shown


@chz.chz(typecheck=True)
class Whisper(EnvConfig):
    """A word among a few. The right choice: 1 for both players. Another: 0."""

    words: int = chz.field(default=3, doc="to choose from")  # 3. `env.words=5` on the command line

    @chz.validate
    def _check(self) -> None:
        if not 3 <= self.words <= 12:
            raise ConfigError(f"words={self.words}: must be from 3 to 12")

    def tasks(self, split: str) -> Sequence[Round]:
        """200 rounds of "train" or of "test", always the same."""
        rngs = [random.Random(f"{split}/{i}") for i in range(200)]
        shown = [rng.sample(WORDS[split], self.words) for rng in rngs]
        return [Round(words, rng.choice(words)) for words, rng in zip(shown, rngs, strict=True)]


@dataclass(frozen=True)
class Round:
    """What all tables of a group have in common."""

    words: Sequence[str]
    word: str
    seats = 2

    def table(self) -> list[Env]:
        """One environment a seat, in the order of the seats. 4. What they share is one `Table`."""
        table = Table()
        return [Teller(self, table), Chooser(self, table)]

    def oracle(self, messages: Sequence[Message]) -> str:
        """The best reply of either player to what it sees, for `cookbook check`."""
        asked = messages[-1]["content"]
        if asked == HINT.format(word=self.word):
            return self.word
        hint = asked.partition("\n")[0]
        return next((word for word in self.words if word in hint), self.words[0])


@dataclass
class Table:
    """What the two players of one table tell each other. Both play at once, so each awaits the other."""

    hint: str = ""
    right: bool = False
    told: asyncio.Event = field(default_factory=asyncio.Event)
    chosen: asyncio.Event = field(default_factory=asyncio.Event)


class Teller:
    """The first seat."""

    def __init__(self, task: Round, table: Table) -> None:
        self.task, self.table = task, table

    async def start(self) -> Sequence[Message]:
        return [*HINT_EXAMPLE, Message(role="user", content=HINT.format(word=self.task.word))]

    async def step(self, reply: Message) -> Step:
        self.table.hint = " ".join(reply["content"].split())[:MAX_HINT]
        self.table.told.set()
        await self.table.chosen.wait()
        return Step(reward=float(self.table.right), done=True, correct=self.table.right)


class Chooser:
    """The second seat: it begins when there is a hint."""

    def __init__(self, task: Round, table: Table) -> None:
        self.task, self.table = task, table

    async def start(self) -> Sequence[Message]:
        await self.table.told.wait()
        ask = CHOOSE.format(hint=self.table.hint, words=", ".join(self.task.words))
        return [*CHOOSE_EXAMPLE, Message(role="user", content=ask)]

    async def step(self, reply: Message) -> Step:
        self.table.right = reply["content"].strip() == self.task.word
        self.table.chosen.set()
        return Step(reward=float(self.table.right), done=True, correct=self.table.right)
