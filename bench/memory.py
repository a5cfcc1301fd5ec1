"""Whether a long run's memory stays flat: 300 steps of math/arithmetic, small ones, with the embedded model.

Printed is the resident memory of the run's process when a step's row appears.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cookbook.runs import read_rows

STEPS, SETTLED = 300, 20
BAR = 1.05
SHOWN = (1, 10, SETTLED, 50, 100, 150, 200, 250, STEPS)
SIZES = ["groups_per_step=4", "group_size=4", "eval_every=0", "save_every=100", "max_lag=1"]


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def watch(folder: Path) -> dict[int, float]:
    """Of each step, counted from 1, the memory when its row was there."""
    words = ["run", "math/arithmetic", "--local", f"steps={STEPS}", *SIZES, "--name", "x"]
    run = subprocess.Popen(
        [sys.executable, "-m", "cookbook.cli", *words],
        env=os.environ | {"COOKBOOK_RUNS": str(folder)},
        stdout=subprocess.DEVNULL,
    )
    found: dict[int, float] = {}
    while run.poll() is None:
        time.sleep(0.1)
        rows = len(read_rows(folder / "x")) if (folder / "x" / "metrics.jsonl").exists() else 0
        if rows and rows not in found and run.poll() is None:
            found[rows] = resident_mib(run.pid)
            if rows in SHOWN:
                print(f"step {rows:3}: {found[rows]:7.1f} MiB", flush=True)
    if run.returncode:
        sys.exit(f"the run ended with exit code {run.returncode}")
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = watch(Path(folder))
    at_first = next(mib for step, mib in found.items() if step >= SETTLED)
    later = [mib for step, mib in found.items() if step > SETTLED]
    ratio = max(later) / at_first
    print(f"after step {SETTLED}: {min(later):.1f} to {max(later):.1f} MiB, {len(later)} readings")
    print(f"bar: at most {BAR} times the memory at step {SETTLED}, {ratio:.3f}: ", end="")
    print("met" if ratio <= BAR else "MISSED")


if __name__ == "__main__":
    main()
