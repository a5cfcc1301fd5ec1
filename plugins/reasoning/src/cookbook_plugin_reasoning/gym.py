"""The environment `reasoning/gym`."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from typing import Literal

import chz

from cookbook import EnvConfig, Message, Question
from cookbook.configs import json_object
from cookbook.errors import ConfigError
from cookbook.streams import stream

from .names import FAMILIES, NOTES, REFUSED

_STRIDE = 1_000_000  # indices of one split in one round
_ROUNDS = 64  # a question of the other split is replaced by one of the next round; at most so often
_TEST_SHARE = 4  # one question in so many is a test question
_EXAMPLES = 8  # at most
_KEPT = 512  # problems of a split in memory: an evaluation plays the same ones again
_ASK = {
    "tags": "\n\nThink first if it helps. End your reply with the final answer alone, in tags: "
    "<answer>...</answer>",
    "reply": "\n\nReply with the final answer and nothing else.",
}


@chz.chz(typecheck=True)
class Gym(EnvConfig):
    """Problems of one family of reasoning-gym, or of several in turn, each made when it is asked for.

    Whether a question is for training or held out is decided by its text alone, so the splits share none,
    whatever the seed or the options.
    """

    choices = {"dataset": {name: NOTES.get(name, "") for name in FAMILIES}}

    dataset: str = chz.field(default="chain_sum", doc="a family, or several: chain_sum,gcd")
    options: str = chz.field(
        default="", doc='JSON, {"max_terms": 3}; with several families {"chain_sum": {...}, ...}'
    )
    answer: Literal["tags", "reply"] = chz.field(
        default="tags", doc="the answer is in <answer></answer>, the last of them, or is the whole reply"
    )
    partial: bool = chz.field(default=True, doc="whether an answer that isn't right may earn a part of 1")
    examples: int = chz.field(default=0, doc="solved problems in the prompt, training ones, the same in all")
    seed: int = chz.field(default=0, doc="other problems")
    n: int = chz.field(default=100_000, doc="training problems; several families share them")
    n_test: int = chz.field(default=1000, doc="held-out problems, likewise")

    @chz.validate
    def _check(self) -> None:
        names = self.names()
        for name in names:
            if name in REFUSED:
                raise ConfigError(f"dataset={name}: {REFUSED[name]}")
            if name not in FAMILIES:
                near = difflib.get_close_matches(name, FAMILIES, n=1)
                guess = f"did you mean {near[0]}? " if near else ""
                raise ConfigError(
                    f"dataset={name}: no such family; {guess}`cookbook show reasoning/gym` lists them"
                )
        if len(set(names)) < len(names):
            raise ConfigError(f"dataset={self.dataset} names a family twice")
        if not 0 <= self.examples <= _EXAMPLES:
            raise ConfigError(f"examples={self.examples}: must be from 0 to {_EXAMPLES}")
        for field, value in (("n", self.n), ("n_test", self.n_test)):
            if not len(names) <= value <= _STRIDE:
                raise ConfigError(f"{field}={value}: must be from {len(names)} to {_STRIDE}")
        self._options()

    def names(self) -> list[str]:
        return [name.strip() for name in self.dataset.split(",")]

    def tasks(self, split: str) -> Sequence[Question]:
        """The problems of "train" or "test", lazily. Raises ValueError for another split, and `ConfigError`
        for options that a family refuses."""
        if split not in ("train", "test"):
            raise ValueError(f"reasoning/gym has the splits train and test, not {split!r}")
        return _Problems(self, split)

    def _options(self) -> dict[str, dict]:
        """Each family's own."""
        given, names = json_object("options", self.options), self.names()
        if len(names) == 1:
            return {names[0]: given}
        for name, value in given.items():
            if name not in names or not isinstance(value, dict):
                raise ConfigError(
                    f"options: {name!r} must be one of {', '.join(names)}, and its value an object"
                )
        return {name: given.get(name, {}) for name in names}


class _Problems(Sequence[Question]):
    """The problems of one split; the i-th is of family i % (number of families)."""

    def __init__(self, env: Gym, split: str) -> None:
        self._n = env.n if split == "train" else env.n_test
        self._held_out = split == "test"
        self._sources = [_Source(env, name, options) for name, options in env._options().items()]
        self._problem = functools.lru_cache(_KEPT)(self._made)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i):  # type: ignore[override]
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(self._n))]
        i = i + self._n if i < 0 else i
        if not 0 <= i < self._n:
            raise IndexError(f"index {i} is outside [0, {self._n})")
        return self._problem(i)

    def _made(self, i: int) -> Question:
        n = len(self._sources)
        return self._sources[i % n].problem(i // n, self._held_out)


class _Source:
    """One family's problems. Raises `ConfigError` for options that it refuses."""

    def __init__(self, env: Gym, name: str, options: dict) -> None:
        from .families import Family
        from .grading import GymGrader

        self._family, self._tags = Family(name, options, env.seed), env.answer == "tags"
        self._ask = _ASK[env.answer]
        self._grader = GymGrader(self._family, env.answer, env.partial)
        self._examples = [m for j in range(env.examples) for m in self._worked(self._entry(-1 - j, False))]

    def problem(self, place: int, held_out: bool) -> Question:
        entry = self._entry(place, held_out)
        prompt = [*self._examples, self._asked(entry)] if self._examples else self._words(entry)
        return Question(prompt, entry, self._grader, answer=self._gold(entry))

    def _entry(self, place: int, test: bool) -> dict:
        """The item of a split at a place: round by round, the first whose question belongs to that split.

        Every split, place and round has an index of its own. Examples have the last places.
        """
        index = place % _STRIDE + _STRIDE * test
        for round in range(_ROUNDS):
            entry = self._family.item(index + 2 * _STRIDE * round)
            if "Integral(" in str(entry["answer"]):
                continue  # an integral that the library couldn't do either
            if held_out(entry["question"]) == test:
                return entry
        which = "test" if test else "training"
        raise ConfigError(
            f"dataset={self._family.name} with these options: of {_ROUNDS} questions none is a {which} one"
        )

    def _words(self, entry: dict) -> str:
        return entry["question"].rstrip() + self._ask

    def _asked(self, entry: dict) -> Message:
        return Message(role="user", content=self._words(entry))

    def _gold(self, entry: dict) -> str:
        """The reference answer as a reply; empty for the families that have none."""
        gold = entry["answer"]
        if not isinstance(gold, str):
            return ""
        return f"<answer>{gold}</answer>" if self._tags else gold

    def _worked(self, entry: dict) -> list[Message]:
        if not self._gold(entry):
            raise ConfigError(f"examples: {self._family.name} has no reference answers; set examples=0")
        return [self._asked(entry), Message(role="assistant", content=self._gold(entry))]


def held_out(question: str) -> bool:
    """Whether a question is a test question, by its words alone."""
    return stream("reasoning/gym", " ".join(question.split()).casefold()) % _TEST_SHARE == 0
