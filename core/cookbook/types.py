"""What environment authors and the loops exchange. Messages, never tokens.

An environment author needs `Question`, or `Task` and `Env`; everything else is produced for them.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, Protocol, TypedDict, runtime_checkable

from . import registry, tools
from .errors import EnvError

StopReason = Literal[
    "done", "max_tokens", "max_turns", "max_episode_tokens", "max_sampled_tokens", "timeout", "table"
]
Verdict = Literal["right", "wrong", "undecided"]


class Message(TypedDict):
    """One chat message.

    role: "system", "user", "assistant" or "tool". content: a text, and a reply's always is; or a list of
    parts, {"type": "text", "text"}, {"type": "thinking", "thinking"} (an assistant's reasoning) and
    {"type": "image", "image": data URI, file or bytes}.
    reasoning_content: an assistant's reasoning, as a text. tool_calls: in OpenAI's form, {"id", "type":
    "function", "function": {"name", "arguments": JSON text}}; a reply keeps the JSON as the model wrote it.
    unparsed_tool_calls: of a reply, what was meant as a call and isn't one: {"text", "reason"}.
    tool_call_id, name: of the call that a tool's message answers. trainable: for
    train_on_what="customized".
    """

    role: str
    content: Any
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[Sequence[Mapping[str, Any]]]
    unparsed_tool_calls: NotRequired[Sequence[Mapping[str, str]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    trainable: NotRequired[bool]


@dataclass(frozen=True, slots=True)
class Start:
    """How an episode begins: the messages before the first reply, and the tools the model may call."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What an environment answers to one reply.

    reward: added to the episode's; None is no verdict: the whole episode is left out of the
        advantages and counted, never scored 0.
    done: whether the episode ends here.
    messages: what is appended before the next reply; empty when done.
    correct: the verdict on the task, where there is one; never derived from the reward.
    metrics: numbers averaged over episodes in the log.
    """

    reward: float | None
    done: bool
    messages: Sequence[Message] = ()
    correct: bool | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Env(Protocol):
    """One episode, played once; there is no reset. `close()` may be defined too, and is always awaited."""

    async def start(self) -> Start | Sequence[Message]: ...

    async def step(self, reply: Message) -> Step: ...


@runtime_checkable
class Task(Protocol):
    """What a group of episodes has in common: a problem, a game's opening.

    `table()` makes the environments of one sitting, one a seat. `seats` (default 1) is how many.
    `async score(episodes_G)` may be defined: it returns one float or None an episode, added to the
    steps' rewards. `oracle(messages)` may be defined: the reply, a text or a `Message`, that ought to lead
    to the best reward from where the messages are; `cookbook check` plays it.
    """

    def table(self) -> list[Env]: ...


@dataclass(frozen=True, slots=True)
class Grade:
    """A grader's verdict on one reply.

    verdict: "right", "wrong" or "undecided" (a judge is down, time ran out); True and False say the first
        two. None where the task knows no right and wrong, only a reward; without one it is "undecided".
    reward: defaults to 1.0 or 0.0 by the verdict. None, always so when undecided, leaves the episode out
        of the advantages.
    stage: the name of the step of grading that decided, where there are several.
    detail: one line on how the verdict came about.

    Raises `EnvError` for another verdict, and for a reward of what is undecided.
    """

    verdict: Verdict | bool | None
    reward: float | None = None
    stage: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        verdict = self.verdict
        if verdict in (True, False, None):
            unknown = "undecided" if self.reward is None else None
            verdict = unknown if verdict is None else "right" if verdict else "wrong"
            object.__setattr__(self, "verdict", verdict)
        if verdict not in ("right", "wrong", "undecided", None):
            raise EnvError(f"Grade(verdict={verdict!r}): it is right, wrong, undecided, True or False")
        if verdict == "undecided" and self.reward is not None:
            raise EnvError(f"Grade(undecided, reward={self.reward!r}): what is undecided has no reward")
        if self.reward is None and verdict in ("right", "wrong"):
            object.__setattr__(self, "reward", float(verdict == "right"))

    @property
    def correct(self) -> bool | None:
        """Whether the reply is right, as a `Step` tells it; None where nobody knows."""
        return {"right": True, "wrong": False}.get(str(self.verdict))


def is_finite(value: Any) -> bool:
    """Whether it is a real number that a float can hold: an integer may be larger."""
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:
        return False


def check_reward(reward: Any, source: object) -> None:
    """Raises `EnvError`, which names the source, for what is neither a finite number nor None."""
    if reward is not None and not is_finite(reward):
        raise EnvError(
            f"{type(source).__name__} gave the reward {reward!r}: a reward is a finite number, or None for "
            "no verdict"
        )


class Grader(Protocol):
    """`grade` may be a plain or an async function."""

    def grade(
        self, prompt: Sequence[Message], reply: Message, reference: Any
    ) -> Grade | Awaitable[Grade]: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply of the model within an episode.

    prompt_T: the token ids sent. tokens_T: the ids sampled. logprobs_T: nats, under the sampling
    weights at temperature 1. stopped: the reply ended with a stop sequence (else it was cut off).
    """

    prompt_T: Sequence[int]
    tokens_T: Sequence[int]
    logprobs_T: Sequence[float]
    message: Message
    stopped: bool


@dataclass(slots=True)
class Episode:
    """One environment played to its end by one seat.

    reward: sum of the steps' rewards and of the task's score; None when any of them was no verdict.
    stop_reason: "done" by its environment; "max_tokens" likewise, after a reply that was cut off; the
    limit that ended it; or "table", when a limit ended another seat of its table.
    version: the number of the weights that all its turns were sampled from.
    """

    turns: list[Turn]
    messages: list[Message]
    reward: float | None
    correct: bool | None
    stop_reason: StopReason
    version: int
    seat: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """The single-turn task, and most environments are this: a prompt, one reply, a grader.

    prompt: the user's words, or whole messages. reference: what the grader compares with.
    grader: an id in the registry, or a `Grader` itself. answer: a reply that ought to get the best reward,
    for `cookbook check`; where it is empty the reference is one, if it is a text or a number.
    tools: typed functions that the model may call (`cookbook.tools`). The first reply that calls none is
    graded; those before it have reward 0, so an episode that a limit ends before an answer has 0, and is
    wrong. Metrics tool_calls and failed_tool_calls: how many an episode made.
    """

    prompt: str | Sequence[Message]
    reference: Any
    grader: str | Grader
    answer: str = ""
    tools: Sequence[Callable[..., Any]] = ()

    def table(self) -> list[Env]:
        return [_QuestionEnv(self)]

    def oracle(self, messages: Sequence[Message]) -> str | None:
        """The reply that ought to be right; None where nobody says."""
        given = isinstance(self.reference, (str, int, float)) and not isinstance(self.reference, bool)
        return self.answer or (str(self.reference) if given else None)


class _QuestionEnv:
    def __init__(self, question: Question) -> None:
        self.reference = question.reference
        self.tools, self.declared = question.tools, tools.declarations(question.tools)
        self.calls = self.failed = 0
        prompt = question.prompt
        self.prompt = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
        self.grader = _grader(question.grader) if isinstance(question.grader, str) else question.grader
        if isinstance(self.grader, type):
            raise EnvError(
                f"Question(grader={self.grader.__name__}) is a class; write {self.grader.__name__}()"
            )

    async def start(self) -> Start:
        return Start(self.prompt, self.declared)

    async def step(self, reply: Message) -> Step:
        if self.tools:
            outcome = await tools.run(reply, self.tools)
            self.calls += outcome.calls
            self.failed += outcome.failed
            if outcome.messages:
                return Step(
                    0.0, done=False, messages=outcome.messages, correct=False, metrics=self._metrics()
                )
        grade = self.grader.grade(self.prompt, reply, self.reference)
        if inspect.isawaitable(grade):
            grade = await grade
        if not isinstance(grade, Grade):
            raise EnvError(f"{type(self.grader).__name__}.grade gave {grade!r}, not a cookbook.Grade")
        check_reward(grade.reward, self.grader)
        return Step(grade.reward, done=True, correct=grade.correct, metrics=self._metrics())

    def _metrics(self) -> dict[str, float]:
        """Of the episode so far: a later step's stand in place of an earlier one's."""
        return {"tool_calls": self.calls, "failed_tool_calls": self.failed} if self.tools else {}


@functools.cache
def _grader(id: str) -> Grader:
    """A grader with its default options; raises `UnknownIdError` or `PluginError`."""
    return registry.find("grader", id).load()()
