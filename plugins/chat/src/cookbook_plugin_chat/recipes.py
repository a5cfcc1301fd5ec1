"""Recipes: what differs from the defaults, and nothing else."""

from __future__ import annotations

import chz

from cookbook import preset
from cookbook.sl import SLConfig

# One kind of free prose and one of mostly copied words.
_HELD_OUT_KINDS = ("choice", "extract")


def sft() -> chz.Blueprint:
    """LoRA on the shipped conversations, with the embedded model.

    `eval/nll` is of held-out rows of the trained kinds, `eval.0/nll` of two kinds never trained on.
    """
    return preset(
        SLConfig,
        name="chat/sft",
        data="chat/conversations",
        backend="local/torch",
        model="SmolLM2-135M-Instruct",
        renderer="core/chatml",
        batch_size=8,
        lr=1e-3,
        lora_rank=16,
        eval_every=15,
        **{
            "data.held_out_kinds": _HELD_OUT_KINDS,
            "evals.0": "chat/conversations",
            "evals.0.test": "kinds",
            "evals.0.held_out_kinds": _HELD_OUT_KINDS,
        },
    )
