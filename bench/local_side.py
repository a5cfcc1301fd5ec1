"""The local engine or a peer of it, one side of one measurement: `python local_side.py WHAT SIDE JOB` prints
one line of JSON. What is asked for, and the tokens, are in the file JOB; both sides get the same.

A side has `name`, and of these what it can: `train(job, batches)`, optimizer steps of a fresh LoRA, their
laps and losses; `sampler(job)`, which gives what samples after prompts, `(prompts, max_tokens) -> number of
tokens`; `reinforce(job)`, RL steps. What comes first warms up, and isn't counted.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from laps import Laps


def train(side: Any, job: dict[str, Any]) -> dict[str, Any]:
    """job: batches, for each length of chats a list of batches."""
    rows = {}
    for length, batches in job["batches"].items():
        laps, losses = side.train(job, batches)
        tokens = [sum(len(chat) for chat in batch) for batch in batches]
        rows[length] = laps.row() | {"losses": losses, "work": {"tokens": tokens}}
    return rows


def sample(side: Any, job: dict[str, Any]) -> dict[str, Any]:
    """job: prompts, for each number of sequences a list of batches. Each begins with a few tokens of the
    first that aren't counted."""
    play = side.sampler(job)
    rows = {}
    for size, batches in job["prompts"].items():
        play(batches[0], 4)
        laps, sampled = Laps(), []
        for prompts in batches[1:]:
            sampled.append(play(prompts, job["max_tokens"]))
            laps.lap()
        rows[size] = {"seconds": laps.seconds, "cpu_s": laps.cpu_s, "work": {"tokens": sampled}}
    return rows


def reinforce(side: Any, job: dict[str, Any]) -> dict[str, Any]:
    """job: tasks, {name: settings}; of each step the times, the tokens sampled, and the mean reward, that
    of the first too."""
    rows = {}
    for task, settings in job["tasks"].items():
        row = side.reinforce(job, settings)
        rows[task] = row | {key: row[key][1:] for key in ("seconds", "cpu_s", "tokens")}
    return rows


def main(what: str, name: str, file: str) -> None:
    side = importlib.import_module(f"adapters.local_{name}")
    measure = {"train": train, "sample": sample, "reinforce": reinforce}[what]
    rows = measure(side, json.loads(Path(file).read_text()))
    print(json.dumps({f"{name} {case}": row | {"name": side.name} for case, row in rows.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
