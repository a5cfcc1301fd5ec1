"""transformers' `generate`, on the bare model: without an adapter it is faster. A static cache was tried, and
is neither faster nor slower.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()  # of loading
name = f"transformers {importlib.metadata.version('transformers')}"


def sampler(job: dict[str, Any]) -> Callable[[Sequence[Sequence[int]], int], int]:
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=getattr(torch, job["dtype"]), attn_implementation="sdpa"
    ).eval()
    # No end token, so that no logits processor has to forbid it.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def play(prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
        ids = torch.tensor(prompts)
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max_tokens,
        )
        return found.numel() - ids.numel()

    return play
