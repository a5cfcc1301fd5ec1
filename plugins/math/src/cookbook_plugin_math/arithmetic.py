"""Sums of two numbers of a given length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import chz

from cookbook import EnvConfig, Message, Question
from cookbook.errors import ConfigError
from cookbook.streams import shuffled

_HELD_OUT = 1000  # pairs at most; a fifth of them where there are fewer than 5000


@chz.chz(typecheck=True)
class Arithmetic(EnvConfig):
    """ "17 + 25", to be answered "= 42", after worked examples as earlier turns.

    Each unordered pair of numbers belongs to the training problems, the held-out ones or the worked
    examples, and to one of them only.
    """

    digits: int = chz.field(default=2, doc="of each number")
    examples: int = chz.field(default=2, doc="worked examples in the prompt, the same in all")

    @chz.validate
    def _check(self) -> None:
        if not 1 <= self.digits <= 9:
            raise ConfigError(f"digits={self.digits}: must be from 1 to 9")
        if not 0 <= self.examples <= 8:
            raise ConfigError(f"examples={self.examples}: must be from 0 to 8")

    def tasks(self, split: str) -> Sequence[Question]:
        """The problems of "train" or "test", lazily. Raises ValueError for another split."""
        pairs = _Pairs(self.digits)
        held_out = min(_HELD_OUT, len(pairs) // 5)
        if split == "test":
            return _Problems(self, range(8, 8 + held_out))
        if split == "train":
            return _Problems(self, range(8 + held_out, len(pairs)))
        raise ValueError(f"math/arithmetic has the splits train and test, not {split!r}")

    def messages(self, a: int, b: int) -> list[Message]:
        """The prompt of a + b."""
        messages = []
        for i in range(self.examples):
            c, d = _Pairs(self.digits)[i]
            messages += [_ask(c, d), Message(role="assistant", content=f"= {c + d}")]
        return [*messages, _ask(a, b)]


def _ask(a: int, b: int) -> Message:
    return Message(role="user", content=f"{a} + {b}")


class _Pairs(Sequence[tuple[int, int]]):
    """All unordered pairs of n-digit numbers, shuffled; each comes in one of its two orders."""

    def __init__(self, digits: int) -> None:
        self._first = 10 ** (digits - 1) if digits > 1 else 0
        self._n = 10**digits - self._first

    def __len__(self) -> int:
        return self._n * (self._n + 1) // 2

    def __getitem__(self, i):  # type: ignore[override]
        at = shuffled(i, len(self), "math/arithmetic", self._n)
        high = (math.isqrt(8 * at + 1) - 1) // 2  # row of the triangle of pairs low <= high
        low = at - high * (high + 1) // 2
        a, b = (low, high) if i % 2 else (high, low)
        return self._first + a, self._first + b


class _Problems(Sequence[Question]):
    """The pairs of one split, as questions."""

    def __init__(self, env: Arithmetic, at: range) -> None:
        self._env, self._at, self._pairs = env, at, _Pairs(env.digits)

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, i):  # type: ignore[override]
        a, b = self._pairs[self._at[i]]
        return Question(self._env.messages(a, b), reference=a + b, grader="math/integer")
