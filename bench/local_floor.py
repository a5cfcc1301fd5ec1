"""What the products of the model alone take, and what the engine takes, by turns in one process:
`python local_floor.py JOB` prints one line of JSON. The products are those of the weights, each layer's own,
as torch makes them; those of the LoRA, which are a few hundredths, aren't among them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from adapters import local_ours
from laps import Laps

LEAST_S = 1.0  # that the products are repeated
ROWS = 256  # of logits at once
PASS = 2048  # tokens of one forward and backward pass, the engine's default


class Products:
    """All weights of the model's shape, random."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        c = json.loads((folder / "config.json").read_text())
        width, inner = c["hidden_size"], c["intermediate_size"]
        head = c.get("head_dim") or width // c["num_attention_heads"]
        q, kv = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
        sizes = [(q + 2 * kv, width), (width, q), (2 * inner, width), (width, inner)]
        self._layers = [
            [torch.randn(size).to(dtype) for size in sizes] for _ in range(c["num_hidden_layers"])
        ]
        self._words = torch.randn(c["vocab_size"], width).to(dtype)

    @torch.inference_mode()
    def run(self, rows: int, *, backward: bool) -> None:
        """Forward of so many rows, logits included, and the gradients of what went into each product."""
        inputs = {n: torch.randn(rows, n).to(self._words) for w in self._layers[0] for n in w.shape}
        for weights in self._layers:
            for weight in weights:
                F.linear(inputs[weight.shape[1]], weight)
        for part in inputs[self._words.shape[1]].split(ROWS):
            logits = F.linear(part, self._words)
            if backward:
                logits @ self._words
        if backward:
            for weights in self._layers:
                for weight in weights:
                    inputs[weight.shape[0]] @ weight


def timed(run: Callable[[], Any], laps: Laps) -> None:
    """A lap of the mean of as many runs as take LEAST_S."""
    began, count = time.perf_counter(), 0
    laps.begin()
    while not count or time.perf_counter() - began < LEAST_S:
        run()
        count += 1
    laps.lap()
    laps.seconds[-1] /= count
    laps.cpu_s[-1] /= count


def by_turns(floor: Callable[[], Any], ours: list[Callable[[], Any]]) -> dict[str, Any]:
    """Laps of the products and of the engine; of each the first isn't counted."""
    products, engine = Laps(), Laps()
    for run in ours:
        timed(floor, products)
        engine.begin()
        run()
        engine.lap()
    return {"products": products.row(), "ours": engine.row()}


def main(file: str) -> None:
    job = json.loads(Path(file).read_text())
    products = Products(Path(job["model"]), getattr(torch, job["dtype"]))
    rows = {}
    play = local_ours.sampler(job)
    for size, batches in job["prompts"].items():
        runs = [lambda prompts=prompts: play(prompts, job["max_tokens"]) for prompts in batches]
        found = by_turns(lambda n=int(size): products.run(n, backward=False), runs)
        rows[f"decoding {size}"] = found | {"tokens": [int(size), int(size) * job["max_tokens"]]}
    trainer = local_ours.client(job)
    for length, batches in job["batches"].items():
        tokens = len(batches[0]) * int(length)
        at_once = min(tokens, PASS)
        runs = [lambda batch=batch: local_ours.step(trainer, job, batch) for batch in batches]
        found = by_turns(lambda n=at_once: products.run(n, backward=True), runs)
        rows[f"training {length}"] = found | {"tokens": [at_once, tokens]}
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1])
