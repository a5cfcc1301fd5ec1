"""tinker-cookbook: datums by its `data_processing`, episodes by its group rollouts over an env of tokens."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tinker
from core_datums import Batch
from core_rollout import ACT, GROUPS, OBS, SIZE, TURNS
from tinker_cookbook.completers import TokensWithLogprobs
from tinker_cookbook.rl.data_processing import assemble_training_data, compute_advantages
from tinker_cookbook.rl.rollouts import do_group_rollout_and_filter_constant_reward
from tinker_cookbook.rl.types import (
    Env,
    EnvGroupBuilder,
    StepResult,
    Trajectory,
    TrajectoryGroup,
    Transition,
)

name = f"tinker-cookbook {importlib.metadata.version('tinker-cookbook')}"


def episodes(batch: Batch) -> list[TrajectoryGroup]:
    ids = itertools.count()
    groups = []
    for group in batch:
        trajectories = [
            Trajectory([_transition(r, r is replies[-1], f"s{next(ids)}") for r in replies], _prompt([]))
            for replies in group
        ]
        groups.append(TrajectoryGroup(trajectories, [0.0] * len(group), [{} for _ in group]))
    return groups


def _transition(reply: Any, last: bool, id: str) -> Transition:
    action = TokensWithLogprobs(reply.tokens_T, reply.logprobs_T, sequence_id=id)
    return Transition(_prompt(reply.prompt_T), action, reply.reward, last)


def _prompt(token_ids: Sequence[int]) -> tinker.ModelInput:
    return tinker.ModelInput.from_ints(list(token_ids)) if token_ids else tinker.ModelInput.empty()


def ways() -> dict[str, Any]:
    return {name: lambda g: _assemble(g, True), f"{name}, without provenance": lambda g: _assemble(g, False)}


def _assemble(groups: list[TrajectoryGroup], provenance: bool) -> list[tinker.Datum]:
    return assemble_training_data(groups, compute_advantages(groups), include_provenance=provenance)[0]


def summary(data_D: list[tinker.Datum]) -> dict[str, float]:
    inputs_D = [{name: x.to_numpy() for name, x in datum.loss_fn_inputs.items()} for datum in data_D]
    sums = [float(np.abs(x["advantages"]).sum(dtype=np.float64)) for x in inputs_D]
    return {
        "datums": len(data_D),
        "tokens": sum(len(x["target_tokens"]) for x in inputs_D),
        "action_tokens": sum(int(x["mask"].sum()) for x in inputs_D),
        "checksum": sum(int(x["target_tokens"].sum()) for x in inputs_D) % 1_000_000_007,
        "abs_advantages": round(sum(sums), 1),
    }


class TokenEnv(Env):
    def __init__(self) -> None:
        self.turn, self.tokens_T = 0, list(range(OBS))

    async def initial_observation(self) -> tuple[tinker.ModelInput, list[int]]:
        return tinker.ModelInput.from_ints(self.tokens_T), [0]

    async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
        self.turn += 1
        self.tokens_T = self.tokens_T + list(action) + list(range(OBS))
        observed = tinker.ModelInput.from_ints(self.tokens_T)
        return StepResult(float(self.turn % 2), self.turn == TURNS, observed, [0])


class Builder(EnvGroupBuilder):
    async def make_envs(self) -> Sequence[Env]:
        return [TokenEnv() for _ in range(SIZE)]


class Client:
    """Answers after one turn of the event loop, always the same 32 tokens."""

    def __init__(self) -> None:
        self.tokens_T = np.arange(ACT, dtype=np.int32)
        self.logprobs_T = np.full(ACT, -0.5, dtype=np.float32)

    async def sample(
        self, prompt: tinker.ModelInput, num_samples: int, sampling_params: tinker.SamplingParams
    ) -> tinker.SampleResponse:
        await asyncio.sleep(0)
        sequence = tinker.types.SampledSequence(
            stop_reason="stop", sequence_id="", tokens_np=self.tokens_T, logprobs_np=self.logprobs_T
        )
        return tinker.SampleResponse(sequences=[sequence])


def setup() -> tuple[Any, Any]:
    client: Any = Client()

    async def group() -> Any:
        return await do_group_rollout_and_filter_constant_reward(
            client, Builder(), ACT, 1.0, do_remove_constant_reward_groups=False, enable_logging=False
        )

    async def play() -> Any:
        return await asyncio.gather(*[group() for _ in range(GROUPS)])

    def played(groups: Any) -> dict[str, float]:
        transitions = [s for group in groups for t in group.trajectories_G for s in t.transitions]
        return work([(s.ob, s.ac.tokens, s.reward) for s in transitions])

    return play, played


def work(steps: Sequence[tuple[tinker.ModelInput, Sequence[int], float]]) -> dict[str, float]:
    """Of steps: what was observed, what was sampled, the reward."""
    turns = [(prompt.to_ints(), list(tokens_T), reward) for prompt, tokens_T, reward in steps]
    return {
        "steps": len(turns),
        "tokens": sum(len(prompt_T) + len(tokens_T) for prompt_T, tokens_T, _ in turns),
        "checksum": sum(sum(prompt_T) + sum(tokens_T) for prompt_T, tokens_T, _ in turns) % 1_000_000_007,
        "reward": sum(reward for _, _, reward in turns),
    }
