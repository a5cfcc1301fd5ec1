"""The least that plays the same episodes of messages: one coroutine an episode, no framework."""

from __future__ import annotations

import asyncio
from typing import Any

import tinker
from adapters import chat
from core_rollout import ACT, GROUPS, SIZE, TURNS

name = "bare asyncio"


def setup() -> tuple[Any, Any]:
    renderer = chat.renderer()
    client, stop = chat.Client(renderer), renderer.get_stop_sequences()

    async def episode(number: int) -> Any:
        env, turns, reward = chat.Env(), [], 0.0
        prompt_T = renderer.build_generation_prompt(await env.start()).token_ids
        while True:
            params = tinker.SamplingParams(
                max_tokens=ACT, temperature=1.0, seed=number * TURNS + len(turns), stop=stop
            )
            response = await client.sample(tinker.ModelInput.from_ints(prompt_T), 1, params)
            sequence = response.sequences[0]
            parsed = renderer.parse_response(sequence.tokens)
            turns.append((prompt_T, sequence.tokens, sequence.logprobs, parsed))
            step = await env.step(parsed.message)
            reward += step.reward
            if step.done:
                return turns, reward
            so_far_T = prompt_T + sequence.tokens
            prompt_T = so_far_T + renderer.bridge(so_far_T, parsed.stopped, step.messages)

    async def play() -> Any:
        return await asyncio.gather(*[episode(number) for number in range(GROUPS * SIZE)])

    def work(episodes: Any) -> dict[str, float]:
        return chat.work([([turn[:2] for turn in turns], reward) for turns, reward in episodes])

    return play, work
