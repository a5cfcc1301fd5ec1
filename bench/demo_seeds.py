"""The demo with three seeds: reward of the first and the last 5 steps, greedy accuracy before and after,
seconds. Prints the table that stands in docs/02-first-run.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from cookbook.runs import read_record, read_rows, runs_dir

SEEDS = (0, 1, 2)


def run(seed: int) -> tuple[list[float], Path]:
    folder = runs_dir() / f"demo-seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    words = ["run", "math/arithmetic", f"seed={seed}", "--name", folder.name]
    subprocess.run([sys.executable, "-m", "cookbook.cli", *words], check=True, stdout=subprocess.DEVNULL)
    taken = time.perf_counter() - began
    rows = read_rows(folder)
    rewards = [row["reward"] for row in rows if "reward" in row]
    greedy = {row["version"]: row["eval/correct"] for row in rows if "eval/correct" in row}
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    return [first, last, greedy[0], greedy[max(greedy)], taken], folder


def main() -> None:
    print("| seed | reward, first 5 steps | last 5 | greedy, before | after | seconds |")
    print("|---|---|---|---|---|---|")
    table = []
    for seed in SEEDS:
        row, folder = run(seed)
        table.append(row)
        print(f"| {seed} | " + " | ".join(f"{x:.3f}" for x in row[:4]) + f" | {row[4]:.0f} |", flush=True)
    means = [sum(column) / len(table) for column in zip(*table, strict=True)]
    print("| mean | " + " | ".join(f"{x:.3f}" for x in means[:4]) + f" | {means[4]:.0f} |")
    record = read_record(folder)
    facts = ", ".join(f"{k} {v}" for k, v in record["backend"].items())
    config = record["config"]
    print(f"\n{config['steps']} steps; greedy on {config['eval_tasks']} held-out problems; {facts}")


if __name__ == "__main__":
    main()
