"""What the two ways to play episodes of messages share: the environment, the renderer, the client."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tinker
from core_rollout import ACT, OBS, TURNS

from cookbook.rendering import Renderer, get_renderer
from cookbook.rendering.tokenizers import load_tokenizer
from cookbook.types import Message, Step
from cookbook_plugin_local.tiny import make_tiny_llama

AROUND = 20  # tokens of ChatML around a user's message, one token a byte, up to the next reply
FIRST = Message(role="user", content="o" * (OBS - AROUND + 1))  # no newline stands before it
NEXT = Message(role="user", content="o" * (OBS - AROUND))


class Env:
    def __init__(self) -> None:
        self.turn = 0

    async def start(self) -> list[Message]:
        return [FIRST]

    async def step(self, reply: Message) -> Step:
        self.turn += 1
        done = self.turn == TURNS
        return Step(float(self.turn % 2), done, [] if done else [NEXT])


class Task:
    def table(self) -> list[Env]:
        return [Env()]


class Client:
    """Answers after one turn of the event loop, always the same: 31 letters and the stop."""

    def __init__(self, renderer: Renderer) -> None:
        ids = [*renderer.tokenizer.encode("r" * (ACT - 1)), *renderer.get_stop_sequences()]
        self.tokens_T = np.array(ids, dtype=np.int32)
        self.logprobs_T = np.full(ACT, -0.5, dtype=np.float32)

    async def sample(
        self, prompt: tinker.ModelInput, num_samples: int, sampling_params: tinker.SamplingParams
    ) -> tinker.SampleResponse:
        await asyncio.sleep(0)
        sequence = tinker.types.SampledSequence(
            stop_reason="stop", sequence_id="", tokens_np=self.tokens_T, logprobs_np=self.logprobs_T
        )
        return tinker.SampleResponse(sequences=[sequence])


def renderer() -> Renderer:
    """ChatML, one token a byte."""
    with tempfile.TemporaryDirectory() as folder:
        return get_renderer("core/chatml", load_tokenizer(make_tiny_llama(Path(folder) / "model")))


def work(episodes: Sequence[tuple[Sequence[tuple[Sequence[int], Sequence[int]]], Any]]) -> dict[str, float]:
    """Of episodes, each its turns (tokens sent, tokens sampled) and its reward."""
    turns = [turn for turns, _ in episodes for turn in turns]
    return {
        "steps": len(turns),
        "tokens": sum(len(prompt_T) + len(tokens_T) for prompt_T, tokens_T in turns),
        "checksum": sum(sum(prompt_T) + sum(tokens_T) for prompt_T, tokens_T in turns) % 1_000_000_007,
        "reward": sum(reward for _, reward in episodes),
    }
