"""A few words, to be answered with the last of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import chz

from cookbook import EnvConfig, Message, Question
from cookbook.errors import ConfigError

from .grader import Exact

# 1. Put your own material here, or read it in `tasks`. Nothing that is trained on is held out.
WORDS = {
    "train": """anchor apple autumn basket bottle bread bridge butter candle castle chair cloud copper dance
        dragon eagle engine feather flame forest garden ginger grape hammer harbor house insect island jacket
        jungle kettle kitten ladder lemon mirror mountain needle ocean orange pencil""".split(),
    "test": """pepper queen quilt rabbit river rocket saddle school shadow silver spider spoon stone summer
        table temple tiger tunnel uncle valley village violin wagon window winter wizard yellow yogurt zebra
        button camera carpet coffee pillow market planet potato rainbow ribbon""".split(),
}
ASK = "Answer with the last word only: "
# 2. One question with its answer before each. A model that is never right learns nothing: the reward of
# the first steps must lie above 0.
EXAMPLE = [
    Message(role="user", content=f"{ASK}sun sky rain"),
    Message(role="assistant", content="rain"),
]


@chz.chz(typecheck=True)
class LastWord(EnvConfig):
    """Lists of words, whose last one is the answer."""

    words: int = chz.field(default=3, doc="in each list")  # 3. `env.words=5` on the command line

    @chz.validate
    def _check(self) -> None:
        if not 3 <= self.words <= 12:
            raise ConfigError(f"words={self.words}: must be from 3 to 12")

    def tasks(self, split: str) -> Sequence[Question]:
        """200 questions of "train" or of "test", always the same."""
        return [self._question(WORDS[split], random.Random(f"{split}/{i}")) for i in range(200)]

    def _question(self, known: Sequence[str], rng: random.Random) -> Question:
        words = rng.sample(known, self.words)
        ask = Message(role="user", content=ASK + " ".join(words))
        # 4. What is asked, what is right, and who judges: grader.py.
        return Question([*EXAMPLE, ask], reference=words[-1], grader=Exact())
