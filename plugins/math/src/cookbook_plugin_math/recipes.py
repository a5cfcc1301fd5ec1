"""Recipes: what differs from the defaults, and nothing else."""

from __future__ import annotations

import chz

from cookbook import preset
from cookbook.rl import RLConfig

_MODEL = "Qwen/Qwen3.5-9B"


def arithmetic() -> chz.Blueprint:
    """Dr. GRPO on sums of two-digit numbers, with the embedded model."""
    return preset(
        RLConfig,
        name="math/arithmetic",
        env="math/arithmetic",
        backend="local/torch",
        model="SmolLM2-135M-Instruct",
        renderer="core/chatml",
        steps=50,
        groups_per_step=16,
        group_size=8,
        max_tokens=8,
        lr=3e-4,
        lora_rank=16,
        eval_every=25,
        eval_tasks=200,
    )


def countdown() -> chz.Blueprint:
    """Dr. GRPO on four numbers and a target, which tinker-cookbook has no recipe for.

    On this machine: two numbers, and whether to add or to subtract them.
    """
    return preset(
        RLConfig,
        name="math/countdown",
        env="math/countdown",
        model=_MODEL,
        steps=100,
        groups_per_step=64,
        group_size=16,
        max_tokens=1024,
        lr=4e-5,
        eval_tasks=500,
        eval_temperature=1.0,
        local={
            "env.numbers": 2,
            "env.operations": "+-",
            "env.few_shot": 4,
            "steps": 30,
            "groups_per_step": 8,
            "group_size": 8,
            "max_tokens": 32,
            "lr": 3e-4,
            "lora_rank": 16,
            "eval_every": 15,
            "eval_tasks": 100,
        },
        **{"env.format_reward": 0.1},
    )
