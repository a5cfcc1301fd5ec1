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
        local={"steps": 20, "groups_per_step": 8, "max_tokens": 48, "lr": 3e-4, "eval_tasks": 50},
    )
