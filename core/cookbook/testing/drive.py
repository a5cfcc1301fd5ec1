"""Plays environments at the level of messages: a policy stands where the model and its tokens would."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..rollout import Limits, Player, add_reward, asked, check_step, opening
from ..streams import stream
from ..types import Episode, Message, StopReason, Task, Turn
from .limits import deadline

Policy = Callable[[Sequence[Message], tuple[int | str, ...]], "str | Message"]
"""The reply to one seat's messages so far. key: of the random stream at this place; its last parts are the
seat and the turn."""


@dataclass(frozen=True, slots=True)
class _Actor:
    """What a `Player` takes for a sampler."""

    policy: Policy
    version: int = 0


@dataclass(frozen=True)
class Driver(Player):
    """A player without tokens: its episodes' turns hold messages alone. took: seconds of each step."""

    took: list[float] = field(default_factory=list)

    async def _turns(self, seat: Any, sampler: Any) -> StopReason:
        start = await opening(seat.env)
        seat.messages += start.messages
        while True:
            await asyncio.sleep(0)  # where another episode may come in between
            reply = sampler.policy(tuple(seat.messages), (*seat.key, len(seat.turns)))
            message = Message(role="assistant", content=reply) if isinstance(reply, str) else reply
            seat.turns.append(Turn((), (), (), message, True))
            seat.messages.append(message)
            began = time.perf_counter()
            step = await asked(seat.env, "step", message)
            self.took.append(time.perf_counter() - began)
            check_step(step, seat.env)
            seat.reward = add_reward(seat.reward, step.reward, seat.env)
            seat.steps.append(step)
            seat.messages += step.messages
            if step.done:
                return "done"
            if len(seat.turns) == self.limits.max_turns:
                return "max_turns"


@dataclass(frozen=True, slots=True)
class Table:
    """One sitting to be played: a task, who plays, and the key of its random streams."""

    task: Task
    policy: Policy
    key: tuple[int | str, ...] = ()


def play(
    tables: Sequence[Table],
    *,
    size: int = 1,
    seconds: float = 10.0,
    turns: int = 16,
    took: list[float] | None = None,
) -> list[Episode]:
    """Plays these tables at once, step by step in turn; `size` sittings of each, all seats in order.
    took: is given the seconds that each step took.

    Raises what the environment raises, `EnvError` where it breaks its contract, and `TookTooLong` where
    it isn't over after so many seconds; one that merely waits so long stops with the reason "timeout".
    """
    limits = Limits(max_turns=turns, episode_timeout_s=seconds)
    driver: Any = Driver(None, 0, limits, took=[] if took is None else took)  # type: ignore[arg-type]

    async def all_of_them() -> list[list[Episode]]:
        groups = (driver.group(table.task, size, _Actor(table.policy), table.key) for table in tables)
        return await asyncio.gather(*groups)

    with deadline(2 * seconds):
        return [episode for group in asyncio.run(all_of_them()) for episode in group]


def always(reply: str | Message) -> Policy:
    """The same reply to everything."""
    return lambda messages, key: reply


def echo(messages: Sequence[Message], key: tuple[int | str, ...]) -> str:
    """The last message itself."""
    return text_of(messages[-1])


def oracle(task: Any) -> Policy | None:
    """Plays what the task says ought to win; None where it doesn't say."""
    if not hasattr(task, "oracle"):
        return None
    return lambda messages, key: _said(task.oracle(messages))


def _said(reply: Any) -> Any:
    return "" if reply is None else reply


def against(task: Any, policy: Policy) -> Policy:
    """The policy at the first seat, and at the others what the task says ought to win."""
    best = oracle(task)
    return lambda messages, key: policy(messages, key) if key[-2] == 0 or not best else best(messages, key)


def anything(pool: Sequence[str]) -> Policy:
    """A random reply: from the pool, or a word or a [bracketed] action of the last message."""

    def policy(messages: Sequence[Message], key: tuple[int | str, ...]) -> str:
        near = re.findall(r"\[[^\]\n]{1,40}\]|\w+", text_of(messages[-1]))
        words = [*pool, *near[-50:]] or [""]
        return words[stream(*key, "anything") % len(words)]

    return policy


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, its parts joined."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
