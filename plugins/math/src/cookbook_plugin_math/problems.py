"""What the environments of problems from a set have in common: source, splits, prompt and reward."""

from __future__ import annotations

import abc
import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import chz

from cookbook import EnvConfig, GraderConfig, Message, Question
from cookbook.configs import by_id
from cookbook.errors import ConfigError
from cookbook.streams import stream

from .in_form import InForm
from .rows import SAMPLE, HubSet, Place, Problem, log, problems


@dataclass(frozen=True)
class ProblemSet:
    """What is known of a set.

    train, splits: where the problems to train on lie, and in which of its splits. test: where the
    held-out ones lie; None where the hub has none. worked: (problem, reply) for `few_shot`.
    """

    train: HubSet
    test: HubSet | None
    worked: Sequence[tuple[str, str]]
    splits: tuple[str, ...] = ("train",)


@chz.chz(typecheck=True)
class Problems(EnvConfig):
    r"""The problems of one set, each one question whose answer goes into \boxed{}.

    No problem of the test split is in the training split, not even with other case or white space. What
    comes twice within a split stays, as in the set. The order is the set's.
    """

    check_with = {"source": "sample", "held_out": 0.1}

    source: str = chz.field(
        default="", doc="a file or folder of the set's form; empty: the hub; sample: a few shipped problems"
    )
    test_source: str = chz.field(default="", doc="likewise, of the held-out problems, where they lie apart")
    held_out: float = chz.field(default=0.01, doc="share that is the test split where the source has none")
    few_shot: int = chz.field(default=0, doc="worked examples in the prompt, the same in all")
    suffix: str = chz.field(
        default=" Reason step by step, and put the final answer in \\boxed{}.", doc="what follows a problem"
    )
    format_reward: float = chz.field(
        default=0.0, doc="what a reply without \\boxed{...} loses of its reward, be it right or wrong"
    )
    grader: GraderConfig = chz.field(
        meta_factory=by_id("grader", default="math/answer"), doc="what compares a reply with the answer"
    )

    @abc.abstractmethod
    def about(self) -> ProblemSet:
        """What is known of the set."""

    @chz.validate
    def _check(self) -> None:
        about, most = self.about(), len(self.about().worked)
        if not 0 <= self.few_shot <= most:
            raise ConfigError(f"few_shot={self.few_shot}: must be from 0 to {most}")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out={self.held_out}: must be from 0 to less than 1, such as 0.01")
        if not 0 <= self.format_reward <= 10:
            raise ConfigError(f"format_reward={self.format_reward}: must be from 0 to 10, such as 0.1")
        apart = about.test if about.test != about.train else None
        if apart and self.source not in ("", SAMPLE) and not self.test_source:
            raise ConfigError(
                f"env.source={self.source} needs env.test_source too: a file or folder of {apart.id}, "
                "whose problems aren't trained on"
            )

    def tasks(self, split: str) -> Sequence[Question]:
        """The problems of "train" or "test". Raises ValueError for another split, `ConfigError` for rows
        that can't be had."""
        if split not in ("train", "test"):
            raise ValueError(f"{self.about().train.name} has the splits train and test, not {split!r}")
        return _Questions(self, self._parts[split == "test"])

    @functools.cached_property
    def _parts(self) -> tuple[list[Problem], list[Problem]]:
        """(train, test), and nothing in both."""
        about, place = self.about(), Place(self.source)
        found, test = problems(about.train, about.splits, place), self._test()
        if not found:
            raise ConfigError(f"{self.source or about.train.id} holds no problems of the split train")
        if not test:
            test = [p for p in found if is_held_out(p.text, self.held_out)]
            if not test and self.held_out:
                log.warning(
                    "env.held_out=%s of %s problems leaves none to evaluate on", self.held_out, len(found)
                )
        keys = {normal(p.text) for p in test}
        train = [p for p in found if normal(p.text) not in keys]
        if not train:
            what = f"all {len(found)} problems of {self.source or about.train.id}"
            raise ConfigError(f"{what} are held out; give another env.test_source, or less env.held_out")
        return train, test

    def _test(self) -> list[Problem]:
        """The held-out problems that lie apart; none where the test split is a share."""
        about, apart = self.about(), Place(self.test_source, "env.test_source", unsplit="test")
        if self.test_source:
            test = problems(about.test or about.train, ["test"], apart)
            if not test:
                raise ConfigError(f"env.test_source={self.test_source} holds no problems of a split test")
            return test
        if self.source in ("", SAMPLE):
            return problems(about.test, ["test"], Place(self.source)) if about.test else []
        return problems(about.train, ["test"], Place(self.source))


def normal(text: str) -> str:
    """What two spellings of one problem share: no white space, one case, one form of each character."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_held_out(text: str, share: float) -> bool:
    """Whether a problem is of the test split, by its text alone: whatever comes before or after it."""
    return stream("math/held_out", normal(text)) < share * 2**62


class _Questions(Sequence[Question]):
    """Problems as questions, made when asked for."""

    def __init__(self, env: Problems, problems: list[Problem]) -> None:
        self._problems, self._suffix = problems, env.suffix
        self._grader = InForm(env.grader, env.format_reward) if env.format_reward else env.grader
        worked = list(env.about().worked)[: env.few_shot]
        self._examples = [m for text, reply in worked for m in (self._asked(text), _replied(reply))]

    def __len__(self) -> int:
        return len(self._problems)

    def __getitem__(self, i):  # type: ignore[override]
        text, answer = self._problems[i]
        return Question([*self._examples, self._asked(text)], reference=answer, grader=self._grader)

    def _asked(self, text: str) -> Message:
        return Message(role="user", content=text + self._suffix)


def _replied(text: str) -> Message:
    return Message(role="assistant", content=text)
