"""Sums of two numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import chz

from cookbook import EnvConfig, Message, Question
from cookbook.errors import ConfigError
from cookbook.streams import shuffled

_HELD_OUT = 1000  # pairs at most; a quarter of them where there are fewer than 4000
_EXAMPLES = 8  # pairs set aside for worked examples, however many are shown


@chz.chz(typecheck=True)
class Arithmetic(EnvConfig):
    """ "17 + 25", to be answered "= 42", after worked examples as earlier turns.

    Each unordered pair of numbers belongs to the training problems, the held-out ones or the worked
    examples, and to one of them only.
    """

    digits: int = chz.field(default=2, doc="of each number")
    longer_sums: bool = chz.field(
        default=False, doc="whether a sum may have a digit more; if not, two-digit numbers end at 49"
    )
    examples: int = chz.field(default=2, doc="worked examples in the prompt, the same in all")

    @chz.validate
    def _check(self) -> None:
        if not 1 <= self.digits <= 9:
            raise ConfigError(f"digits={self.digits}: must be from 1 to 9")
        if not 0 <= self.examples <= _EXAMPLES:
            raise ConfigError(f"examples={self.examples}: must be from 0 to {_EXAMPLES}")

    def tasks(self, split: str) -> Sequence[Question]:
        """The problems of "train" or "test", lazily. Raises ValueError for another split."""
        pairs = _Pairs(self.digits, self.longer_sums)
        first_trained = _EXAMPLES + min(_HELD_OUT, len(pairs) // 4)
        if split == "test":
            return _Problems(self, pairs, range(_EXAMPLES, first_trained))
        if split == "train":
            return _Problems(self, pairs, range(first_trained, len(pairs)))
        raise ValueError(f"math/arithmetic has the splits train and test, not {split!r}")


class _Pairs(Sequence[tuple[int, int]]):
    """All unordered pairs of numbers, shuffled; each comes in one of its two orders."""

    def __init__(self, digits: int, longer_sums: bool) -> None:
        self._first = 10 ** (digits - 1) if digits > 1 else 0
        self._n = (10 if longer_sums else 5) * 10 ** (digits - 1) - self._first

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

    def __init__(self, env: Arithmetic, pairs: _Pairs, at: range) -> None:
        self._pairs, self._at = pairs, at
        self._examples = [m for i in range(env.examples) for m in _worked(*pairs[i])]

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, i):  # type: ignore[override]
        a, b = self._pairs[self._at[i]]
        return Question([*self._examples, _asked(a, b)], reference=a + b, grader="math/integer")


def _asked(a: int, b: int) -> Message:
    return Message(role="user", content=f"{a} + {b}")


def _worked(a: int, b: int) -> list[Message]:
    return [_asked(a, b), Message(role="assistant", content=f"= {a + b}")]
