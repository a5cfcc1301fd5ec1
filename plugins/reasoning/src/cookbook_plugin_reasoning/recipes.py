"""Recipes: what differs from the defaults, and nothing else."""

from __future__ import annotations

import chz

from cookbook import preset
from cookbook.rl import RLConfig


def gym() -> chz.Blueprint:
    """GRPO on generated problems; `env.dataset=` chooses the family."""
    return preset(
        RLConfig,
        name="reasoning/gym",
        env="reasoning/gym",
        model="Qwen/Qwen3-8B",
        group_size=16,
        groups_per_step=32,
        max_tokens=2048,
        advantage="grpo",
        lr=4e-5,
        eval_every=20,
        eval_tasks=200,
        local={
            "env.options": '{"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}',
            "env.answer": "reply",
            "env.examples": 3,
            "groups_per_step": 16,
            "group_size": 8,
            "max_tokens": 8,
            "steps": 30,
            "lr": 3e-4,
            "eval_every": 15,
        },
    )
