"""Episodes to datums, one side of it: `python core_datums.py ADAPTER` prints one line of JSON.

An adapter has `episodes(batch)`, which makes its own kind of episodes out of plain lists and isn't
timed; `ways()`, what is timed: {name: episodes -> datums}, advantages included; and `summary(datums)`.
"""

from __future__ import annotations

import gc
import importlib
import json
import random
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

GROUPS, SIZE, TURNS, OBS, ACT = 64, 16, 5, 200, 300
TOKENS = GROUPS * SIZE * TURNS * (OBS + ACT)
VOCABULARY, SEED = 150_000, 0
REPEATS = 2


class Reply(NamedTuple):
    """One turn: the tokens sent, all that went before included, and the tokens sampled."""

    prompt_T: list[int]
    tokens_T: list[int]
    logprobs_T: list[float]
    reward: float


Batch = Sequence[Sequence[Sequence[Reply]]]  # groups of episodes of turns


def batch() -> Batch:
    """Random tokens. The last turn of an episode is rewarded with 0 or 1."""
    rng = random.Random(SEED)
    return [[_episode(rng) for _ in range(SIZE)] for _ in range(GROUPS)]


def _episode(rng: random.Random) -> list[Reply]:
    so_far_T: list[int] = []
    turns = []
    for turn in range(TURNS):
        prompt_T = so_far_T + [rng.randrange(VOCABULARY) for _ in range(OBS)]
        tokens_T = [rng.randrange(VOCABULARY) for _ in range(ACT)]
        logprobs_T = [-rng.random() for _ in range(ACT)]
        reward = float(rng.random() < 0.5) if turn == TURNS - 1 else 0.0
        turns.append(Reply(prompt_T, tokens_T, logprobs_T, reward))
        so_far_T = prompt_T + tokens_T
    return turns


def main(name: str) -> None:
    adapter = importlib.import_module(f"adapters.{name}")
    groups_P = adapter.episodes(batch())
    rows = {}
    for way, assemble in adapter.ways().items():
        work = adapter.summary(assemble(groups_P))  # the first run isn't counted
        seconds = []
        for _ in range(REPEATS):
            gc.collect()
            began = time.perf_counter()
            datums = assemble(groups_P)
            seconds.append(time.perf_counter() - began)
            del datums
        rows[way] = {"seconds": seconds, "work": work}
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1])
