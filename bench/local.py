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
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import local_rl
import torch
from local_texts import Texts
from side_by_side import HERE, Rows, bar, machine, ratios, rounds, run, spread

from cookbook.rendering import load_tokenizer
from cookbook_plugin_local.backend import TorchBackend
from cookbook_plugin_local.models import EMBEDDED, find_model

PEER = HERE.parent / ".bench-local" / "bin" / "python"
RANK, ALPHA = 16, 32.0
CHATS = 8
STEPS = {128: 3, 512: 2}  # of chats of each length; the first isn't counted
PROMPT, SAMPLED, SIZES = 64, 64, (1, 8, 32, 64)
TRAIN_BARS = {"float32": 1.2, "bfloat16": 1.6}
SAMPLE_BARS = {1: 1.4, 8: 2.0, 32: 2.0, 64: 2.0}
SCALES = (1, 2, 4, 8)
DECODED = (1, 8, 64)


@dataclass(frozen=True)
class Bench:
    """What all parts need. rounds: of each side. learn, seeds: RL steps over which learning is compared."""

    peer: str
    rounds: int
    learn: int
    seeds: int
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

    def job(self, **job: Any) -> str:
        """The file of what a process is told."""
        file = self.scratch / "job.json"
        settings = {"model": str(self.model), "rank": RANK, "alpha": ALPHA, "lr": 1e-4}
        file.write_text(json.dumps({**settings, "scratch": str(self.scratch), **job}))
        return str(file)

    def measure(self, what: str, sides: Sequence[str], count: int = 0, **job: Any) -> list[Rows]:
        """The rows of each round, of so many or of `rounds`."""
        file = self.job(**job)
        pythons = [sys.executable if side == "ours" else self.peer for side in sides]
        words = [(python, what, side, file) for python, side in zip(pythons, sides, strict=True)]
        return rounds(count or self.rounds, "local_side.py", words, self.env)


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


def floor(bench: Bench) -> None:
    """Prompts of a few tokens, so that all is decoding."""
    for dtype in bench.dtypes:
        texts = bench.texts
        prompts = {n: [texts.windows(n, 4) for _ in range(4)] for n in DECODED}
        batches = {n: [texts.chats(CHATS, n) for _ in range(STEPS[n])] for n in STEPS}
        file = bench.job(
            dtype=dtype,
            prompts=prompts,
            batches=batches,
            learned=texts.chats(1, PROMPT),
            max_tokens=SAMPLED,
        )
        rows = run(sys.executable, "local_floor.py", file, env=bench.env)
        print(f"\nThe products alone, and the engine, {dtype}")
        columns = f"{'products':>10}{'engine':>10}{'its share, by wall time':>26}{'by CPU time':>20}"
        print(f"  {'tokens a second':24}{columns}")
        for name, row in rows.items():
            once, tokens = row["tokens"]
            products, ours = row["products"], row["ours"]
            shares = ""
            for key in ("seconds", "cpu_s"):
                each = [a / once / (b / tokens) for a, b in zip(products[key], ours[key], strict=True)]
                shares += f"{statistics.median(each):8.2f} ({min(each):.2f}-{max(each):.2f})"
            rates = (
                once / statistics.median(products["seconds"]),
                tokens / statistics.median(ours["seconds"]),
            )
            print(f"  {name:24}{rates[0]:10.0f}{rates[1]:10.0f}{shares}")


def scale(bench: Bench) -> None:
    for dtype in bench.dtypes:
        texts = bench.texts
        batches = {4 * k: [texts.chats(4 * k, 128) for _ in range(3)] for k in SCALES}
        prompts = {8 * k: [texts.windows(8 * k, PROMPT) for _ in range(2)] for k in SCALES}
        tasks = {str(2 * k): local_rl.demo(bench, 2 * k, 8, steps=3) for k in SCALES}
        learned = texts.chats(1, PROMPT)
        kinds = {
            "optimizer step, {} chats of 128 tokens": ("train", {"batches": batches}),
            f"sampling {SAMPLED} tokens after {{}} prompts": (
                "sample",
                {"prompts": prompts, "learned": learned, "max_tokens": SAMPLED},
            ),
            "RL step, the demo with {} x 8 answers": ("reinforce", {"tasks": tasks, "lr": 3e-4}),
        }
        print(f"\nSeconds of more work, {dtype}{'median':>40}{'min':>9}{'max':>9}   over 1x in proportion")
        for line, (what, job) in kinds.items():
            results = bench.measure(what, ("ours",), 1, dtype=dtype, **job)
            base = 0.0
            for k, name in zip(SCALES, results[0], strict=True):
                median, least, most = spread(results, name, "seconds")
                base = base or median
                label = line.format(name.split()[1])
                print(f"  {label:56}{median:9.2f}{least:9.2f}{most:9.2f}{median / base / k:9.2f}")


PARTS: dict[str, Callable[[Bench], None]] = {
    "train": train,
    "sample": sample,
    "rl": local_rl.rl,
    "floor": floor,
    "scale": scale,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--rounds", type=int, default=3, help="of each side")
    parser.add_argument("--learn", type=int, default=12, help="RL steps over which learning is compared")
    parser.add_argument("--seeds", type=int, default=1, help="of that comparison")
    parser.add_argument("--peer", default=str(PEER), help="the Python that TRL is installed for")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(asked.peer, asked.rounds, asked.learn, asked.seeds, Path(scratch))
        print(
            f"\n{machine('cookbook-plugin-local', 'torch')}; OMP_NUM_THREADS={bench.env['OMP_NUM_THREADS']}"
        )
        if "bfloat16" not in bench.dtypes:
            print("bfloat16 isn't measured: this processor has no products of it")
        for part in asked.parts or PARTS:
            PARTS[part](bench)


if __name__ == "__main__":
    main()
