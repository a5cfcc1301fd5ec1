"""A few words, to be said in their order, one in each reply. A wrong one ends it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

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
ASK = "Say these words in their order, one in each reply: "
# 2. A game as it should go, before each. A model that never gets anywhere learns nothing: the reward of
# the first steps must lie above 0.
EXAMPLE = [
    Message(role="user", content=f"{ASK}sun sky rain"),
    Message(role="assistant", content="sun"),
    Message(role="user", content="Next."),
    Message(role="assistant", content="sky"),
    Message(role="user", content="Next."),
    Message(role="assistant", content="rain"),
]
SHOWN = sum(message["role"] == "assistant" for message in EXAMPLE)


@chz.chz(typecheck=True)
class Reciting(EnvConfig):
    """Lists of words. The reward is the share that was said before the first mistake."""

    words: int = chz.field(default=3, doc="in each list")  # 3. `env.words=5` on the command line

    @chz.validate
    def _check(self) -> None:
        if not 3 <= self.words <= 12:
            raise ConfigError(f"words={self.words}: must be from 3 to 12")

    def tasks(self, split: str) -> Sequence[Game]:
        """200 lists of "train" or of "test", always the same."""
        return [Game(random.Random(f"{split}/{i}").sample(WORDS[split], self.words)) for i in range(200)]


@dataclass(frozen=True)
class Game:
    """What all episodes of a group have in common."""

    words: Sequence[str]

    def table(self) -> list[Env]:
        return [Play(self)]

    def oracle(self, messages: Sequence[Message]) -> str:
        """The best reply from here, for `cookbook check`."""
        return self.words[sum(message["role"] == "assistant" for message in messages) - SHOWN]


class Play:
    """One episode. 4. Its state lies here, never in the module: many are played at once."""

    def __init__(self, game: Game) -> None:
        self.words = game.words
        self.said = 0

    async def start(self) -> Sequence[Message]:
        return [*EXAMPLE, Message(role="user", content=f"Right. {ASK}{' '.join(self.words)}")]

    async def step(self, reply: Message) -> Step:
        """5. What a reply leads to: a reward and the end, or the next message."""
        right = reply["content"].strip() == self.words[self.said]
        self.said += right
        if right and self.said < len(self.words):
            return Step(reward=0.0, done=False, messages=[Message(role="user", content="Next.")])
        return Step(reward=self.said / len(self.words), done=True, correct=right)
