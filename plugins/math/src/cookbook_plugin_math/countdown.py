"""Countdown: reach a target from given numbers. Problems without end, and a grader that computes."""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chz

from cookbook import EnvConfig, Grade, GraderConfig, Message, Question
from cookbook.errors import ConfigError
from cookbook.streams import stream

from .expression import ExpressionError, evaluate
from .extraction import boxed
from .in_form import InForm

_TRAINED, _HELD_OUT, _EXAMPLES = 1_000_000, 1000, 8  # problems
_HIGHEST = 999  # target
_TRIES = 10_000  # to make one problem


@chz.chz(typecheck=True)
class Countdown(EnvConfig):
    r"""Numbers and a target, to be answered by an expression in \boxed{}.

    Each problem is made from its index alone, by combining its numbers, so it can be solved, with whole
    numbers on the way. Of ten sets of numbers, one is for the test split, one for the worked examples, and
    eight are trained on.
    """

    numbers: int = chz.field(default=4, doc="how many are given")
    largest: int = chz.field(default=50, doc="of them; the smallest is 1")
    operations: str = chz.field(default="+-*/", doc="what the problems are made with: some of + - * /")
    use_all: bool = chz.field(default=True, doc="each number exactly once; if not, at most once")
    few_shot: int = chz.field(default=0, doc="worked examples in the prompt, the same in all")
    format_reward: float = chz.field(
        default=0.0, doc="what a reply without \\boxed{...} loses of its reward, be it right or wrong"
    )

    @chz.validate
    def _check(self) -> None:
        if not 2 <= self.numbers <= 6:
            raise ConfigError(f"numbers={self.numbers}: must be from 2 to 6")
        if not 10 <= self.largest <= 999:
            raise ConfigError(f"largest={self.largest}: must be from 10 to 999")
        if not self.operations or set(self.operations) - set("+-*/"):
            raise ConfigError(f"operations={self.operations}: must be some of + - * /, such as +-")
        if not 0 <= self.few_shot <= _EXAMPLES:
            raise ConfigError(f"few_shot={self.few_shot}: must be from 0 to {_EXAMPLES}")
        if not 0 <= self.format_reward <= 10:
            raise ConfigError(f"format_reward={self.format_reward}: must be from 0 to 10, such as 0.1")

    def tasks(self, split: str) -> Sequence[Question]:
        """The problems of "train" or "test", lazily. Raises ValueError for another split."""
        if split not in ("train", "test"):
            raise ValueError(f"math/countdown has the splits train and test, not {split!r}")
        return _Problems(self, split)


class Made(NamedTuple):
    """A problem, and one solution of it."""

    numbers: list[int]
    target: int
    solution: str


def make(env: Countdown, split: str, index: int) -> Made:
    """The index-th problem of "train", "test" or "example". Raises `ConfigError` where none comes out."""
    for attempt in range(_TRIES):
        draw = random.Random(stream("math/countdown", env.numbers, env.largest, split, index, attempt))
        numbers = [draw.randint(1, env.largest) for _ in range(env.numbers)]
        part = stream("math/countdown", "split", *sorted(numbers)) % 10
        if ("test", "example")[part] == split if part < 2 else split == "train":
            target, solution = _combined(numbers, env.operations, draw)
            if 1 <= target <= _HIGHEST and target not in numbers:
                return Made(numbers, target, solution)
    raise ConfigError(
        f"operations={env.operations} makes no problem of numbers={env.numbers}, largest={env.largest}; "
        "allow more of + - * /"
    )


def _combined(numbers: Sequence[int], operations: str, draw: random.Random) -> tuple[int, str]:
    """All numbers combined, two by two in random order: (value, expression); (0, "") where it can't go on."""
    parts = [(n, str(n)) for n in numbers]
    while len(parts) > 1:
        draw.shuffle(parts)
        (b, right), (a, left) = sorted((parts.pop(), parts.pop()), key=lambda part: part[0])
        values = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b > 1 and a % b == 0 else 0}
        possible = [op for op in "+-*/" if op in operations and 0 < values[op] <= 10 * _HIGHEST]
        if not possible:
            return 0, ""
        op = draw.choice(possible)
        parts.append((values[op], f"({left} {op} {right})"))
    value, text = parts[0]
    return value, text[1:-1]


class _Problems(Sequence[Question]):
    def __init__(self, env: Countdown, split: str) -> None:
        self._env, self._split = env, split
        grader = CountdownGrader()
        self._grader = InForm(grader, env.format_reward) if env.format_reward else grader
        made = [make(env, "example", i) for i in range(env.few_shot)]
        self._examples = [message for m in made for message in (self._asked(m), _replied(m))]

    def __len__(self) -> int:
        return _TRAINED if self._split == "train" else _HELD_OUT

    def __getitem__(self, i):  # type: ignore[override]
        if not 0 <= i < len(self):
            raise IndexError(f"problem {i} of {len(self)}")
        made = make(self._env, self._split, i)
        reference = {"numbers": made.numbers, "target": made.target, "use_all": self._env.use_all}
        asked = [*self._examples, self._asked(made)]
        return Question(asked, reference, self._grader, answer=_replied(made)["content"])

    def _asked(self, made: Made) -> Message:
        *most, last = map(str, made.numbers)
        once = "each exactly once" if self._env.use_all else "each at most once"
        text = (
            f"Make {made.target} from the numbers {', '.join(most)} and {last}, {once}, with + - * / and "
            "brackets. Put the expression in \\boxed{}."
        )
        return Message(role="user", content=text)


def _replied(made: Made) -> Message:
    return Message(
        role="assistant", content=f"{made.solution} = {made.target}, so \\boxed{{{made.solution}}}"
    )


@chz.chz(typecheck=True)
class CountdownGrader(GraderConfig):
    r"""Right when the reply's expression has the target's value and takes its numbers from those given.

    The expression is what stands in the last \boxed{}, else the last line, after a colon if there is one.
    Of an equation it is the last side, or the one before where the last is the bare target. The reference
    is {"numbers": [...], "target": n, "use_all": whether all must be used}. What can't be read is wrong.
    """

    def grade(self, prompt: Sequence[Message], reply: Message, reference: Mapping[str, Any]) -> Grade:
        text = answer(reply["content"], reference["target"])
        try:
            value, used = evaluate(text)
        except ExpressionError as e:
            return Grade(False, detail=f"no expression: {e}")
        given = Counter(reference["numbers"])
        if Counter(used) - given:
            return Grade(False, detail=f"{_listed(Counter(used) - given)} not given, or not so often")
        if reference["use_all"] and given - Counter(used):
            return Grade(False, detail=f"{_listed(given - Counter(used))} not used")
        return Grade(value == reference["target"], detail=f"it makes {value}")


def answer(text: str, target: int) -> str:
    """The part of a reply that should be the expression. Never raises."""
    found = boxed(text)
    if found is None:
        lines = text.strip().splitlines()
        found = lines[-1].rpartition(":")[2] if lines else ""
    sides = [side.strip(string.whitespace + "$.") for side in found.split("=")]
    if len(sides) > 1 and sides[-1] == str(target):
        sides.pop()
    return sides[-1]


def _listed(numbers: Counter[int]) -> str:
    return ", ".join(map(str, sorted(numbers.elements())))
