"""What a lag costs where sampling and training share the processor: math/arithmetic with max_lag 0 and 1 by
turns, at lr=0 so that both sample the same tokens, and the seconds of a run's steps. One thread, unless
OMP_NUM_THREADS says otherwise: two of them lose more to any other process than a lag could cost.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cookbook.runs import read_rows

BAR = 1.05
ROUNDS, STEPS = 3, 6


def seconds(max_lag: int, folder: Path) -> tuple[float, int]:
    """A run's steps together, and how many tokens they sampled; loading the model isn't counted."""
    words = ["run", "math/arithmetic", f"steps={STEPS}", "lr=0", "eval_every=0", "save_every=0"]
    subprocess.run(
        [sys.executable, "-m", "cookbook.cli", *words, f"max_lag={max_lag}", "--name", "x"],
        env={"OMP_NUM_THREADS": "1"} | os.environ | {"COOKBOOK_RUNS": str(folder)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    rows = read_rows(folder / "x")
    return sum(row["time/step_s"] for row in rows), sum(row["tokens/sampled"] for row in rows)


def main() -> None:
    times: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(ROUNDS):
        sampled = set()
        for max_lag, taken in times.items():
            with tempfile.TemporaryDirectory() as folder:
                run_s, tokens = seconds(max_lag, Path(folder))
            taken.append(run_s)
            sampled.add(tokens)
            print(f"max_lag={max_lag}: {run_s:.2f} s for {STEPS} steps, {tokens} tokens sampled", flush=True)
        assert len(sampled) == 1, "both lags do the same work"
    medians = [statistics.median(taken) for taken in times.values()]
    print(f"medians {medians[0]:.2f} s and {medians[1]:.2f} s, ratio {medians[1] / medians[0]:.3f}")
    print(f"bar: at most {BAR}")


if __name__ == "__main__":
    main()
