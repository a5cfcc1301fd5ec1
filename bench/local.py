"""The local engine beside TRL and transformers, in one run: `python bench/local.py [PART ...]`, of the parts
train, sample, rl, floor and scale.

The same model, tokens, lengths, LoRA and threads on both sides; each runs in processes of its own, in turn
with the other. Ratios are medians over the rounds, of wall time and of CPU time: where other processes take
the processor, the second is steadier. A missed bar is no failure of the command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from local_texts import Texts
from side_by_side import HERE, Rows, bar, machine, ratios, rounds, spread

from cookbook.rendering import load_tokenizer
from cookbook_plugin_local.backend import TorchBackend
from cookbook_plugin_local.models import EMBEDDED, find_model

PEER = HERE.parent / ".bench-local" / "bin" / "python"
RANK, ALPHA = 16, 32.0
CHATS = 8
STEPS = {128: 4, 512: 3}  # of chats of each length; the first isn't counted
PROMPT, SAMPLED, SIZES = 64, 64, (1, 8, 32, 64)
TRAIN_BARS = {"float32": 1.2, "bfloat16": 1.6}
SAMPLE_BARS = {1: 1.4, 8: 2.0, 32: 2.0, 64: 2.0}
SCALES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Bench:
    """What all parts need. rounds: of each side. learn: steps over which learning is compared."""

    peer: str
    rounds: int
    learn: int
    scratch: Path

    @cached_property
    def model(self) -> Path:
        return find_model(EMBEDDED)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.model)

    @property
    def texts(self) -> Texts:
        return Texts(self.tokenizer)

    @cached_property
    def env(self) -> dict[str, str]:
        """Of all processes: as many threads each, which leave the processor soon where they wait (as
        `cookbook` has it), and no GPU."""
        threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
        return {"OMP_NUM_THREADS": threads, "GOMP_SPINCOUNT": "10000", "CUDA_VISIBLE_DEVICES": ""}

    @cached_property
    def dtypes(self) -> list[str]:
        """bfloat16 only where the processor multiplies it; elsewhere it takes ten times as long as fp32."""
        fast = TorchBackend(device="cpu").options().dtype == torch.bfloat16
        return ["float32", "bfloat16"] if fast else ["float32"]

    def measure(self, what: str, sides: Sequence[str], **job: Any) -> list[Rows]:
        """The rows of each round. job: what the sides are told."""
        file = self.scratch / "job.json"
        settings = {"model": str(self.model), "rank": RANK, "alpha": ALPHA, "lr": 1e-4}
        file.write_text(json.dumps({**settings, "scratch": str(self.scratch), **job}))
        pythons = [sys.executable if side == "ours" else self.peer for side in sides]
        words = [(python, what, side, str(file)) for python, side in zip(pythons, sides, strict=True)]
        return rounds(self.rounds, "local_side.py", words, self.env)


def beside(results: list[Rows], ours: str, peer: str, tokens: int) -> float:
    """Prints both sides' rates, and the ratios. Returns that of the wall times."""
    for row in (peer, ours):
        median, least, most = (tokens / s for s in spread(results, row, "seconds"))
        rates = f"{median:9.1f}{most:9.1f}{least:9.1f}"
        over = [ratios(results, peer, row, key) for key in ("seconds", "cpu_s")] if row == ours else []
        times = "".join(f"{each[0]:10.2f} ({each[1]:.2f}-{each[2]:.2f})" for each in over)
        print(f"  {results[0][row]['name']:24}{rates}{times}")
    assert results[0][ours]["work"] == results[0][peer]["work"], "the same work"
    return ratios(results, peer, ours, "seconds")[0]


def header(line: str) -> None:
    print(f"\n{line}")
    columns = f"{'median':>9}{'min':>9}{'max':>9}{'ours, by wall time':>21}{'by CPU time':>22}"
    print(f"  {'tokens a second':24}{columns}")


def train(bench: Bench) -> None:
    for dtype in bench.dtypes:
        texts = bench.texts
        batches = {length: [texts.chats(CHATS, length) for _ in range(n)] for length, n in STEPS.items()}
        results = bench.measure("train", ("ours", "trl"), dtype=dtype, batches=batches)
        for length in STEPS:
            header(f"Training, {dtype}, {CHATS} distinct chats of {length} tokens, loss on all")
            times = beside(results, f"ours {length}", f"trl {length}", CHATS * length)
            losses = [results[0][f"{side} {length}"]["losses"] for side in ("ours", "trl")]
            apart = abs(losses[0][0] - losses[1][0])
            print(f"  the first loss: {losses[0][0]:.4f} and {losses[1][0]:.4f}, {apart:.0e} apart", end="; ")
            print(f"after {len(losses[0]) - 1} steps {losses[0][-1]:.4f} and {losses[1][-1]:.4f}")
            least = TRAIN_BARS[dtype]
            aim = " (aim 2)" if dtype == "bfloat16" else ""
            bar(f"at least {least} times TRL's{aim}, {dtype}, {length} tokens, {times:.2f}", times >= least)


def sample(bench: Bench) -> None:
    for dtype in bench.dtypes:
        texts = bench.texts
        prompts = {n: [texts.windows(n, PROMPT) for _ in range(3 if n < 8 else 2)] for n in SIZES}
        learned = texts.chats(1, PROMPT)
        job = {"dtype": dtype, "prompts": prompts, "learned": learned, "max_tokens": SAMPLED}
        results = bench.measure("sample", ("ours", "hf"), **job)
        for n in SIZES:
            header(f"Sampling, {dtype}, {n} distinct prompts of {PROMPT} tokens, {SAMPLED} tokens after each")
            times = beside(results, f"ours {n}", f"hf {n}", n * SAMPLED)
            least = SAMPLE_BARS[n]
            bar(f"at least {least} times generate's, {dtype}, {n} sequences, {times:.2f}", times >= least)


PARTS: dict[str, Callable[[Bench], None]] = {
    "train": train,
    "sample": sample,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--rounds", type=int, default=3, help="of each side")
    parser.add_argument("--learn", type=int, default=12, help="RL steps over which learning is compared")
    parser.add_argument("--peer", default=str(PEER), help="the Python that TRL is installed for")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(asked.peer, asked.rounds, asked.learn, Path(scratch))
        print(
            f"\n{machine('cookbook-plugin-local', 'torch')}; OMP_NUM_THREADS={bench.env['OMP_NUM_THREADS']}"
        )
        if "bfloat16" not in bench.dtypes:
            print("bfloat16 isn't measured: this processor has no products of it")
        for part in asked.parts or PARTS:
            PARTS[part](bench)


if __name__ == "__main__":
    main()
