"""Plays episodes: environment x renderer x sampling client -> `Episode`. The only place where an
environment's messages meet a model's tokens.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import chz
import tinker

from .backends.base import Sampler
from .errors import ConfigError, EnvError
from .rendering import Renderer
from .streams import stream
from .types import Env, Episode, Message, Start, Step, StopReason, Task, Turn, check_reward

Play = Callable[[int, int, Sampler], Coroutine[Any, Any, list[Episode]]]


@chz.chz(typecheck=True)
class Limits:
    """What ends an episode that its environment doesn't end."""

    max_turns: int = chz.field(default=16, doc="replies in one episode")

    @chz.validate
    def _check(self) -> None:
        if self.max_turns < 1:
            raise ConfigError(f"limits.max_turns={self.max_turns}: an episode has at least 1 turn")


@dataclass(frozen=True, slots=True)
class Player:
    """How episodes are played. temperature must be 1 where the episodes are trained on."""

    renderer: Renderer
    max_tokens: int
    limits: Limits
    temperature: float = 1.0

    async def group(self, task: Task, size: int, sampler: Sampler, key: Sequence[int | str]) -> list[Episode]:
        """`size` tables of one task, all at once: size x seats episodes, table by table, seat by seat.

        Random streams are keyed by (key, table, seat, turn), so the order in which replies arrive
        changes nothing. Raises the first error of an environment or of the sampler, with every other
        episode of the group cancelled. Every environment that was made is closed, whatever happens.
        """
        tables: list[list[Env]] = []
        try:
            for _ in range(size):
                tables.append(list(task.table()))
            episodes = await together(
                self._play(env, len(envs), sampler, (*key, table, seat))
                for table, envs in enumerate(tables)
                for seat, env in enumerate(envs)
            )
        finally:
            await together(close(env) for envs in tables for env in envs)
        score = getattr(task, "score", None)
        if score is not None:
            extras = await score(episodes)
            if len(extras) != len(episodes):
                name = type(task).__name__
                raise EnvError(f"{name}.score gave {len(extras)} rewards for {len(episodes)} episodes")
            for episode, extra in zip(episodes, extras, strict=True):
                episode.reward = _add(episode.reward, extra, task)
        return episodes

    async def _play(self, env: Env, seats: int, sampler: Sampler, key: Sequence[int | str]) -> Episode:
        """One episode of an environment at a table of so many seats; the last of the key is its own."""
        start = await opening(env)
        messages: list[Message] = list(start.messages)
        prompt_T = self.renderer.build_generation_prompt(messages, tools=start.tools).token_ids
        turns: list[Turn] = []
        steps: list[Step] = []
        reward: float | None = 0.0
        reason: StopReason = "done"
        while True:
            turn = await self._turn(prompt_T, sampler, (*key, len(turns)))
            turns.append(turn)
            messages.append(turn.message)
            step = await _asked(env, "step", turn.message)
            _check_step(step, env)
            reward = _add(reward, step.reward, env)
            steps.append(step)
            messages += step.messages
            if step.done:
                reason = "done" if turn.stopped else "max_tokens"
                break
            if len(turns) == self.limits.max_turns:
                if seats > 1:  # the others may wait for this seat for ever
                    raise EnvError(
                        f"{type(env).__name__}: a seat of a table of {seats} reached limits.max_turns="
                        f"{len(turns)} before its game was done; give a higher limits.max_turns"
                    )
                reason = "max_turns"
                break
            prompt_T = self._next_prompt(turn, step, messages, start)
        return Episode(
            turns=turns,
            messages=messages,
            reward=reward,
            correct=steps[-1].correct,
            stop_reason=reason,
            version=sampler.version,
            seat=int(key[-1]),
            metrics={name: value for step in steps for name, value in step.metrics.items()},
        )

    async def _turn(self, prompt_T: list[int], sampler: Sampler, key: Sequence[int | str]) -> Turn:
        response = await sampler.client.sample(
            prompt=tinker.ModelInput.from_ints(prompt_T),
            num_samples=1,
            sampling_params=tinker.SamplingParams(
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                seed=stream(*key),
                stop=self.renderer.get_stop_sequences(),
            ),
        )
        sequence = response.sequences[0]
        parsed = self.renderer.parse_response(sequence.tokens, prompt_ids=prompt_T)
        stopped = sequence.stop_reason == "stop"
        return Turn(prompt_T, sequence.tokens, sequence.logprobs or [], parsed.message, stopped)

    def _next_prompt(self, turn: Turn, step: Step, messages: list[Message], start: Start) -> list[int]:
        """The tokens so far, verbatim, plus the new messages; rendered anew only where the format edits
        history."""
        so_far_T = [*turn.prompt_T, *turn.tokens_T]
        bridge_T = self.renderer.bridge(so_far_T, turn.stopped, step.messages)
        if bridge_T is None:
            return self.renderer.build_generation_prompt(messages, tools=start.tools).token_ids
        return so_far_T + bridge_T


async def together(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Runs all at once; results in order. The first error cancels the others, and is raised alone."""
    tasks: list[asyncio.Task[Any]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(c) for c in coroutines]
    except BaseExceptionGroup as e:
        error: BaseException = e
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    return [task.result() for task in tasks]


async def close(env: Env) -> None:
    """An environment may have a `close`."""
    if hasattr(env, "close"):
        await _asked(env, "close")


async def opening(env: Env) -> Start:
    """How an environment's episode begins. Raises `EnvError` for messages that aren't."""
    start = await _asked(env, "start")
    start = start if isinstance(start, Start) else Start(start)
    _check_messages(start.messages, f"{type(env).__name__}.start")
    return start


async def _asked(env: Env, method: str, *args: Any) -> Any:
    answer = getattr(env, method)(*args)
    if not inspect.isawaitable(answer):
        raise EnvError(f"{type(env).__name__}.{method} is a plain function; write `async def {method}`")
    return await answer


def _check_messages(messages: object, source: str) -> None:
    form = "{'role': ..., 'content': text}"
    if isinstance(messages, (str, dict)) or not isinstance(messages, Sequence):
        raise EnvError(f"{source} gave {type(messages).__name__}, not a list of messages {form}")
    for message in messages:
        if not (
            isinstance(message, dict) and all(isinstance(message.get(k), str) for k in ("role", "content"))
        ):
            raise EnvError(f"{source} gave the message {message!r}, not {form}")


def _check_step(step: object, env: Env) -> None:
    """The rewards are checked where they are added."""
    source = f"{type(env).__name__}.step"
    if not isinstance(step, Step):
        raise EnvError(f"{source} gave {type(step).__name__}, not a cookbook.Step")
    _check_messages(step.messages, source)
    if not step.done and not step.messages:
        raise EnvError(f"{source} goes on (done=False) without a message to reply to; give messages=[...]")
    if step.correct not in (True, False, None):
        raise EnvError(f"{source} gave correct={step.correct!r}: it is True, False or None for no verdict")
    for name, value in step.metrics.items():
        if not (isinstance(value, numbers.Real) and math.isfinite(value)):
            raise EnvError(f"{source} gave the metric {name}={value!r}, not a finite number")


def _add(total: float | None, reward: float | None, source: object) -> float | None:
    """The sum; None, no verdict, when either is. Raises `EnvError` for what is no finite number."""
    check_reward(reward, source)
    return None if total is None or reward is None else total + float(reward)


class Rollouts:
    """Which batch is sampled from which weights. The whole rule: batch b from version max(0, b - max_lag).

    max_lag=0 is synchronous. No episode is older than max_lag by construction, so nothing is filtered,
    and the same seed gives the same episodes however fast anything is.
    """

    def __init__(self, play: Play, groups_per_step: int, max_lag: int, start: int, stop: int) -> None:
        """play: `(step, group, sampler) -> group of episodes`. Batches [start, stop) will be played."""
        self._play, self._groups_per_step, self._max_lag = play, groups_per_step, max_lag
        self._start, self._stop = start, stop
        self._batches: dict[int, list[asyncio.Task[list[Episode]]]] = {}

    def publish(self, sampler: Sampler) -> None:
        """Starts every batch that is meant for this version."""
        first = 0 if sampler.version == 0 else sampler.version + self._max_lag
        last = sampler.version + self._max_lag
        for step in range(max(first, self._start), min(last + 1, self._stop)):
            self._batches[step] = [
                asyncio.create_task(self._play(step, group, sampler))
                for group in range(self._groups_per_step)
            ]

    async def take(self, step: int) -> list[list[Episode]]:
        """The groups of one batch, in index order, once all are played. Raises what any of them raised."""
        groups_P = await asyncio.gather(*self._batches[step])
        del self._batches[step]
        return groups_P

    async def close(self) -> None:
        """Cancels what still plays and waits for it: no task outlives the loop."""
        tasks = [task for batch in self._batches.values() for task in batch]
        self._batches.clear()
        await cancel(tasks)


async def cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels tasks and waits until each has ended, whatever it raises then."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
