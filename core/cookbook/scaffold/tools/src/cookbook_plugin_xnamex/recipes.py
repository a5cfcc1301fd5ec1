"""Recipes: what differs from the defaults, and nothing else. `cookbook run xnamex/prices --help`."""

from __future__ import annotations

import chz

from cookbook import preset
from cookbook.rl import RLConfig


def prices() -> chz.Blueprint:
    """For a model on the service; `local` is laid over it by `--local`."""
    return preset(
        RLConfig,
        name="xnamex/prices",
        env="xnamex/prices",
        model="Qwen/Qwen3-8B",
        steps=50,
        max_tokens=64,
        lr=4e-5,
        # A call takes 30 tokens. Who calls wrongly is told so and goes on, else for 16 turns.
        local={"steps": 15, "groups_per_step": 4, "max_tokens": 32, "lr": 3e-4, "limits.max_turns": 4},
    )
