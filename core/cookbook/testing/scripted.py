"""A model whose replies an author writes, and a task played with it: no weights, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tinker

from ..backends.base import Sampler
from ..errors import ConfigError
from ..rendering import Renderer, get_renderer
from ..rollout import Limits, Player
from ..streams import stream
from ..types import Env, Episode, Message, Task
from .tokens import CALLS, byte_tokenizer

Reply = str | Message
Script = Sequence[Reply] | Callable[[str, int | None], Reply]
"""The replies in the order in which they are asked for; or a function of the prompt's text, control tokens
included, and the seed of the sample."""

KEY = ("play",)  # of the random streams of what is played here
LONG = 1 << 20  # tokens: no reply that an author writes is cut off


class ScriptedSampler:
    """A sampling client that says what it is told to.

    A reply's tokens are those that the renderer would have a model sample, its stop among them, cut at
    `max_tokens` (stop_reason "length"). Each token has the log-probability that it has where all tokens are
    equally likely, -log of the vocabulary's size, in nats.

    Raises `ConfigError` when a list has no reply left, and `RendererError` for what the format can't say.
    """

    def __init__(self, renderer: Renderer, script: Script) -> None:
        self._renderer, self._script, self._asked = renderer, script, 0
        self.logprob = -float(np.log(len(renderer.tokenizer)))

    async def sample(
        self, prompt: tinker.ModelInput, num_samples: int, sampling_params: tinker.SamplingParams
    ) -> tinker.SampleResponse:
        text = self._renderer.tokenizer.decode(prompt.to_ints())
        replies = [self._next(text, sampling_params.seed) for _ in range(num_samples)]
        return tinker.SampleResponse(
            sequences=[self._sequence(reply, sampling_params.max_tokens) for reply in replies]
        )

    async def compute_logprobs(self, prompt: tinker.ModelInput) -> list[float | None]:
        return [None, *[self.logprob] * (prompt.length - 1)]

    def _next(self, text: str, seed: int | None) -> Reply:
        if callable(self._script):
            return self._script(text, seed)
        if self._asked == len(self._script):
            raise ConfigError(f"the script has {self._asked} replies, and another is asked for: write it too")
        self._asked += 1
        return self._script[self._asked - 1]

    def _sequence(self, reply: Reply, max_tokens: int | None) -> tinker.SampledSequence:
        whole_T = said(self._renderer, reply)
        tokens_T = whole_T[:max_tokens]
        return tinker.SampledSequence(
            stop_reason="stop" if len(tokens_T) == len(whole_T) else "length",
            sequence_id="scripted",
            tokens_np=np.array(tokens_T, dtype=np.int32),
            logprobs_np=np.full(len(tokens_T), self.logprob, dtype=np.float32),
        )


def said(renderer: Renderer, reply: Reply) -> list[int]:
    """The tokens of a reply as a model samples them, with their stop."""
    message = Message(role="assistant", content=reply) if isinstance(reply, str) else reply
    rendered = renderer.build_supervised_example(
        [Message(role="user", content=""), message], train_on_what="last_assistant_message"
    )
    return [id for id, weight in zip(rendered.only_tokens(), rendered.weights, strict=True) if weight]


def play(
    task: Task | Env, replies: Script, *, max_tokens: int = LONG, limits: Limits | None = None
) -> Episode:
    """One episode of a task of one seat, or of an environment, with the replies that a test gives:

        episode = play(Guess(5), ["3", "7", "5"])
        assert episode.reward == 1.0

    It is played as the loop plays it, in Qwen3's format over bytes, which has a form for tools. What isn't
    over after the last reply ends there, with the stop reason "max_turns"; `limits` says otherwise.
    Raises what the environment raises, and `EnvError` where it breaks its contract. Not for use in a
    coroutine: it runs an event loop of its own.
    """
    (episode,) = play_table(task, [replies], max_tokens=max_tokens, limits=limits)
    return episode


def play_table(
    task: Task | Env, scripts: Sequence[Script], *, max_tokens: int = LONG, limits: Limits | None = None
) -> list[Episode]:
    """One sitting, a script for each seat; the episodes seat by seat. Otherwise as `play`.

    Raises `ConfigError` where a seat is asked for a reply that its script doesn't have.
    """
    task = task if isinstance(task, Task) else _Alone(task)
    seats = getattr(task, "seats", 1)
    if any(isinstance(script, str) for script in scripts):
        raise ConfigError("a script is one text: write a list of replies, one a turn")
    if len(scripts) != seats:
        name = type(task).__name__
        raise ConfigError(
            f"{name} has {seats} seats, and {len(scripts)} scripts are given: give one for each"
        )
    lengths = [len(script) for script in scripts if not callable(script)]
    if limits is None:
        limits = Limits(max_turns=max(1, *lengths)) if len(lengths) == len(scripts) else Limits()
    renderer = get_renderer("core/qwen3_instruct", byte_tokenizer(CALLS))
    sampler = Sampler(ScriptedSampler(renderer, _by_seat(scripts, limits.max_turns)), version=0)
    player = Player(renderer, max_tokens, limits)
    return asyncio.run(player.group(task, 1, sampler, KEY))


def _by_seat(scripts: Sequence[Script], turns: int) -> Callable[[str, int | None], Reply]:
    """One script of all: which seat and turn a sample is for stands in its seed."""
    places = {
        stream(*KEY, 0, seat, turn): (seat, turn) for seat in range(len(scripts)) for turn in range(turns)
    }

    def reply(text: str, seed: int | None) -> Reply:
        seat, turn = places[seed]  # type: ignore[index]
        script = scripts[seat]
        if callable(script):
            return script(text, seed)
        if turn >= len(script):
            raise ConfigError(
                f"seat {seat} has {len(script)} replies, and is asked for another: write it too, or "
                f"limits=Limits(max_turns={len(script)})"
            )
        return script[turn]

    return reply


class _Alone:
    """An environment without a task."""

    def __init__(self, env: Any) -> None:
        if not hasattr(env, "step"):
            name = type(env).__name__
            raise ConfigError(
                f"{name} is neither a task nor an environment; play .tasks('train')[0] of an EnvConfig"
            )
        self.env = env

    def table(self) -> list[Env]:
        return [self.env]
