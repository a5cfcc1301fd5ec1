"""Plays episodes: environment x renderer x sampling client -> `Episode`. The only place where an
environment's messages meet a model's tokens.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import chz
import tinker

from .backends.base import Sampler, together
from .errors import BackendError, ConfigError, CookbookError, EnvError, RendererError
from .rendering import Renderer, plain
from .schedule import Gate, cancel
from .streams import stream
from .types import Env, Episode, Message, Start, Step, StopReason, Task, Turn, check_reward, is_finite

log = logging.getLogger("cookbook")
EpisodeErrors = Literal["raise", "drop_group", "retry"]
RETRIES = 2  # of a group in which an environment failed; then it is dropped


@chz.chz(typecheck=True)
class Limits:
    """What ends an episode that its environment doesn't end. None: no such limit."""

    max_turns: int = chz.field(default=16, doc="replies in one episode")
    max_episode_tokens: int | None = chz.field(
        default=None, doc="tokens of a prompt and its reply together; never more than the model's context"
    )
    max_sampled_tokens: int | None = chz.field(default=None, doc="tokens of an episode's replies together")
    episode_timeout_s: float | None = chz.field(
        default=None, doc="seconds by the clock, so that a run with it can't be repeated to the bit"
    )

    @chz.validate
    def _check(self) -> None:
        for name in ("max_turns", "max_episode_tokens", "max_sampled_tokens", "episode_timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"limits.{name}={value}: must be more than 0")


class EnvFailed(Exception):
    """An environment raised `error`: an episode's misfortune, where a broken contract is a mistake."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@dataclass(slots=True)
class _Seat:
    """One episode as far as it was played. key: of its random streams; its last part is the seat."""

    env: Env
    key: tuple[int | str, ...]
    turns: list[Turn] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    reward: float | None = 0.0
    reason: StopReason = "table"

    def episode(self, version: int) -> Episode:
        """An episode that a limit ended before its first reply has no verdict."""
        return Episode(
            turns=self.turns,
            messages=self.messages,
            reward=self.reward if self.turns else None,
            correct=self.steps[-1].correct if self.steps else None,
            stop_reason=self.reason,
            version=version,
            seat=int(self.key[-1]),
            metrics={name: float(value) for step in self.steps for name, value in step.metrics.items()},
        )


@dataclass(frozen=True, slots=True)
class Player:
    """How episodes are played. temperature must be 1 where the episodes are trained on.

    errors: what becomes of a group in which an environment raised: "raise" it, "drop_group", or "retry"
    it twice from its start, and then drop it.
    """

    renderer: Renderer
    max_tokens: int
    limits: Limits
    temperature: float = 1.0
    errors: EpisodeErrors = "raise"
    gate: Gate = field(default_factory=Gate)

    async def group(
        self, task: Task, size: int, sampler: Sampler, key: tuple[int | str, ...], order: tuple[int, ...] = ()
    ) -> list[Episode]:
        """`size` tables of one task, all at once: size x seats episodes, table by table, seat by seat;
        none where the group was dropped.

        Random streams are keyed by (key, table, seat, turn), so the order in which replies arrive
        changes nothing. order: which group goes first through the gate. Raises the first error of the
        sampler, or of an environment where `errors` is "raise", with every other episode of the group
        cancelled. Every environment that was made is closed, whatever happens.
        """
        for attempt in range(RETRIES + 1):
            try:
                return await self._group(task, size, sampler, key, order)
            except EnvFailed as failed:
                if self.errors == "raise":
                    raise failed.error from failed.error.__cause__
                last = self.errors == "drop_group" or attempt == RETRIES
                fate = "its group is dropped" if last else "its group is played again"
                reason = " ".join(f"{type(failed.error).__name__}: {failed.error}".split())
                log.warning("an episode of %s failed: %s; %s", type(task).__name__, reason, fate)
                if last:
                    break
        return []

    async def _group(
        self, task: Task, size: int, sampler: Sampler, key: tuple[int | str, ...], order: tuple[int, ...]
    ) -> list[Episode]:
        tables: list[list[Env]] = []
        try:
            for _ in range(size):
                tables.append(table_of(task))
            played = await together(
                self._admitted(envs, sampler, (*key, table), (*order, table))
                for table, envs in enumerate(tables)
            )
        finally:
            await together(close(env) for envs in tables for env in envs if hasattr(env, "close"))
        episodes = [episode for table in played for episode in table]
        if hasattr(task, "score"):
            extras = await asked(task, "score", episodes)
            if len(extras) != len(episodes):
                name = type(task).__name__
                raise EnvError(f"{name}.score gave {len(extras)} rewards for {len(episodes)} episodes")
            for episode, extra in zip(episodes, extras, strict=True):
                episode.reward = add_reward(episode.reward, extra, task)
        return episodes

    async def _admitted(
        self, envs: Sequence[Env], sampler: Sampler, key: tuple[int | str, ...], order: tuple[int, ...]
    ) -> list[Episode]:
        if not self.gate.places:
            return await self._table(envs, sampler, key)
        async with self.gate.admit(len(envs), order):
            return await self._table(envs, sampler, key)

    async def _table(
        self, envs: Sequence[Env], sampler: Sampler, key: tuple[int | str, ...]
    ) -> list[Episode]:
        """One sitting. A seat that a limit ends takes the others with it: they may wait for it for ever."""
        seats = [_Seat(env, (*key, i)) for i, env in enumerate(envs)]
        if len(seats) == 1:
            await self._play(seats[0], sampler)
        else:
            playing = {asyncio.create_task(self._play(seat, sampler)): seat for seat in seats}
            try:
                pending = set(playing)
                while pending:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                    if any(playing[task].reason not in ("done", "max_tokens") for task in done):
                        break
            finally:
                await cancel(list(playing))
        return [seat.episode(sampler.version) for seat in seats]

    async def _play(self, seat: _Seat, sampler: Sampler) -> None:
        """One episode, to whatever ends it."""
        if self.limits.episode_timeout_s is None:
            seat.reason = await self._turns(seat, sampler)
            return
        clock = asyncio.timeout(self.limits.episode_timeout_s)
        try:
            async with clock:
                seat.reason = await self._turns(seat, sampler)
        except TimeoutError:
            if not clock.expired():  # the sampler's own
                raise
            seat.reason = "timeout"

    async def _turns(self, seat: _Seat, sampler: Sampler) -> StopReason:
        start = await opening(seat.env)
        seat.messages += start.messages
        prompt_T = self.renderer.build_generation_prompt(seat.messages, tools=start.tools).only_tokens()
        sampled = 0
        while True:
            room, limit = self._room(len(prompt_T), sampled)
            if room < 1:
                return limit
            key = (*seat.key, len(seat.turns))
            turn = await self._turn(prompt_T, room, sampler, key, start.tools)
            seat.turns.append(turn)
            seat.messages.append(turn.message)
            sampled += len(turn.tokens_T)
            step = await asked(seat.env, "step", turn.message)
            check_step(step, seat.env)
            seat.reward = add_reward(seat.reward, step.reward, seat.env)
            seat.steps.append(step)
            seat.messages += step.messages
            if step.done:
                return "done" if turn.stopped else "max_tokens"
            if len(seat.turns) == self.limits.max_turns:
                return "max_turns"
            prompt_T = self._next_prompt(turn, step, seat.messages, start)

    def _room(self, prompt: int, sampled: int) -> tuple[int, StopReason]:
        """How many tokens the next reply may have, and which limit says so."""
        room, limit = self.max_tokens, "max_tokens"
        if self.limits.max_episode_tokens is not None and self.limits.max_episode_tokens - prompt < room:
            room, limit = self.limits.max_episode_tokens - prompt, "max_episode_tokens"
        if self.limits.max_sampled_tokens is not None and self.limits.max_sampled_tokens - sampled < room:
            room, limit = self.limits.max_sampled_tokens - sampled, "max_sampled_tokens"
        return room, limit  # type: ignore[return-value]

    async def _turn(
        self,
        prompt_T: list[int],
        max_tokens: int,
        sampler: Sampler,
        key: tuple[int | str, ...],
        tools: Sequence[Mapping[str, Any]],
    ) -> Turn:
        response = await sampler.client.sample(
            prompt=tinker.ModelInput.from_ints(prompt_T),
            num_samples=1,
            sampling_params=tinker.SamplingParams(
                max_tokens=max_tokens,
                temperature=self.temperature,
                seed=stream(*key),
                stop=self.renderer.get_stop_sequences(),
            ),
        )
        sequence = response.sequences[0]
        parsed = self.renderer.parse_response(sequence.tokens, prompt_ids=prompt_T, tools=tools)
        stopped, tokens_T, logprobs_T = (
            sequence.stop_reason == "stop",
            sequence.tokens,
            sequence.logprobs or [],
        )
        if len(logprobs_T) != len(tokens_T):
            raise BackendError(f"the sampler gave {len(logprobs_T)} logprobs for {len(tokens_T)} tokens")
        return Turn(prompt_T, tokens_T, logprobs_T, parsed.message, stopped)

    def _next_prompt(self, turn: Turn, step: Step, messages: list[Message], start: Start) -> list[int]:
        """The tokens so far, verbatim, plus the new messages; rendered anew only where the format edits
        history."""
        so_far_T = [*turn.prompt_T, *turn.tokens_T]
        bridge_T = self.renderer.bridge(so_far_T, turn.stopped, step.messages)
        if bridge_T is None:
            return self.renderer.build_generation_prompt(messages, tools=start.tools).only_tokens()
        return so_far_T + bridge_T


def table_of(task: Task) -> list[Env]:
    """The environments of one sitting. Raises `EnvError` where there are none."""
    name = f"{type(task).__name__}.table"
    with _guard(name):
        envs = list(task.table())
    if not envs:
        raise EnvError(f"{name} gave no environment; it gives one a seat")
    return envs


async def close(env: Env) -> None:
    """An environment may have a `close`."""
    if hasattr(env, "close"):
        await asked(env, "close")


async def opening(env: Env) -> Start:
    """How an environment's episode begins. Raises `EnvError` for messages that aren't."""
    start = await asked(env, "start")
    start = start if isinstance(start, Start) else Start(start)
    _check_messages(start.messages, f"{type(env).__name__}.start")
    return start


async def asked(source: Any, method: str, *args: Any) -> Any:
    """Awaits what an environment or a task is asked. What it raises itself comes as `EnvFailed`."""
    try:  # not `with _guard(...)`, which takes two microseconds: this is every step of every episode
        answer = getattr(source, method)(*args)
        if not inspect.isawaitable(answer):
            raise EnvError(
                f"{type(source).__name__}.{method} is a plain function; write `async def {method}`"
            )
        return await answer
    except asyncio.CancelledError:
        raise
    except BaseException as e:
        with _guard(f"{type(source).__name__}.{method}"):
            raise e


@contextmanager
def _guard(name: str) -> Iterator[None]:
    """Around somebody else's code."""
    try:
        yield
    except CookbookError:
        raise
    except SystemExit as e:
        raise EnvError(f"{name} called sys.exit({e.code!r})") from None
    except Exception as e:
        raise EnvFailed(e) from e


_TEXT = {"role", "content"}


def _is_text(value: object) -> bool:
    return type(value) is str


def _check_messages(messages: object, source: str) -> None:
    form = "{'role': ..., 'content': text}"
    if isinstance(messages, (str, dict)) or not isinstance(messages, Sequence):
        raise EnvError(f"{source} gave {type(messages).__name__}, not a list of messages {form}")
    for message in messages:
        if _is_plain(message):
            continue
        try:
            plain(message, f"{source} gave a message: it")
        except RendererError as e:
            raise EnvError(str(e)) from None


def _is_plain(message: object) -> bool:
    """A role and a text, and nothing more, as most messages are; told fast, since this is every step."""
    return type(message) is dict and message.keys() == _TEXT and all(map(_is_text, message.values()))


def check_step(step: object, env: Env) -> None:
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
        if not is_finite(value):
            raise EnvError(f"{source} gave the metric {name}={value!r}, not a finite number")


def add_reward(total: float | None, reward: float | None, source: object) -> float | None:
    """The sum; None, no verdict, when either is. Raises `EnvError` for what is no finite number."""
    check_reward(reward, source)
    return None if total is None or reward is None else total + float(reward)
