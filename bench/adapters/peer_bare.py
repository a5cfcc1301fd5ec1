"""The least that plays the peer's episodes of tokens: one coroutine an episode, no framework."""

from __future__ import annotations

import asyncio
from typing import Any

import tinker
from adapters import peer
from core_rollout import ACT, GROUPS, SIZE

name = "bare asyncio, of tokens"


def setup() -> tuple[Any, Any]:
    client = peer.Client()

    async def episode() -> Any:
        env, steps = peer.TokenEnv(), []
        prompt, stop = await env.initial_observation()
        while True:
            params = tinker.SamplingParams(max_tokens=ACT, temperature=1.0, stop=stop)
            sequence = (await client.sample(prompt, 1, params)).sequences[0]
            step = await env.step(sequence.tokens)
            steps.append((prompt, sequence.tokens, sequence.logprobs, step.reward))
            if step.episode_done:
                return steps
            prompt, stop = step.next_observation, step.next_stop_condition

    async def play() -> Any:
        return await asyncio.gather(*[episode() for _ in range(GROUPS * SIZE)])

    def played(episodes: Any) -> dict[str, float]:
        return peer.work([(step[0], step[1], step[3]) for steps in episodes for step in steps])

    return play, played
