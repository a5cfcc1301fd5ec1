"""Recipes: what differs from the defaults, and nothing else."""

from __future__ import annotations

import chz

from cookbook import preset
from cookbook.rl import RLConfig


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
