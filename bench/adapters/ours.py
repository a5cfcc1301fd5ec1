"""This project: datums as `rl.py` makes them, episodes as `Player` and `Rollouts` play them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from adapters import chat
from core_datums import ACT as DATUM_ACT
from core_datums import Batch
from core_rollout import ACT, GROUPS, SIZE, TURNS

from cookbook.advantages import advantages
from cookbook.backends.base import Sampler
from cookbook.data import scale, to_data, to_samples
from cookbook.rollout import Limits, Player
from cookbook.schedule import Rollouts
from cookbook.types import Episode, Message, Turn

name = "cookbook"


def episodes(batch: Batch) -> list[list[Episode]]:
    return [[_episode(replies) for replies in group] for group in batch]


def _episode(replies: Any) -> Episode:
    message = Message(role="assistant", content="")
    return Episode(
        turns=[Turn(r.prompt_T, r.tokens_T, r.logprobs_T, message, True) for r in replies],
        messages=[],
        reward=sum(r.reward for r in replies),
        correct=None,
        stop_reason="done",
        version=0,
    )


def ways() -> dict[str, Any]:
    return {name: _assemble}


def _assemble(groups_P: list[list[Episode]]) -> Any:
    samples = to_samples(groups_P, advantages("mean", groups_P), mask_cut_off=False)
    scale(samples, "sum", len(groups_P), [len(group) for group in groups_P], DATUM_ACT)
    return to_data(samples, "importance_sampling", keep=True)  # as the peer does


def summary(assembled: Any) -> dict[str, float]:
    data_D, sequences_D = assembled
    targets_D = [d.loss_fn_inputs["target_tokens"].to_numpy() for d in data_D]
    advantages_D = [d.loss_fn_inputs["advantages"].to_numpy() for d in data_D]
    return {
        "datums": len(data_D),
        "tokens": sum(len(t) for t in targets_D),
        "action_tokens": sum(int(s.action_T[1:].sum()) for s in sequences_D),
        "checksum": sum(int(t.sum()) for t in targets_D) % 1_000_000_007,
        "abs_advantages": round(sum(float(np.abs(a).sum(dtype=np.float64)) for a in advantages_D), 1),
    }


def setup() -> tuple[Any, Any]:
    renderer = chat.renderer()
    player = Player(renderer, ACT, Limits(max_turns=TURNS))
    sampler = Sampler(chat.Client(renderer), 0)

    async def play_group(step: int, group: int, sampler: Sampler) -> list[Episode]:
        return await player.group(chat.Task(), SIZE, sampler, (0, step, group))

    async def play() -> list[list[Episode]]:
        rollouts = Rollouts(play_group, GROUPS, 0, range(1), asyncio.Event())
        rollouts.publish(sampler)
        try:
            return [group async for groups_P in rollouts.parts(0, 1) for group in groups_P]
        finally:
            await rollouts.close()

    def work(groups_P: list[list[Episode]]) -> dict[str, float]:
        return chat.work(
            [([(t.prompt_T, t.tokens_T) for t in e.turns], e.reward) for g in groups_P for e in g]
        )

    return play, work
