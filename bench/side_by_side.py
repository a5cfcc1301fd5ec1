"""Several sides of one measurement, each in processes of its own, in turn with the others, so that what
else the machine does hits all alike.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Rows = dict[str, dict[str, Any]]


def run(python: str, script: str, *words: str, env: Mapping[str, str] | None = None) -> Rows:
    """One process: {name of the row: its samples, and what work was done}, the last line that it prints."""
    command = [python, str(HERE / script), *words]
    env = os.environ | (env or {"OMP_NUM_THREADS": "1"})
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rounds(
    count: int, script: str, sides: Sequence[Sequence[str]], env: Mapping[str, str] | None = None
) -> list[Rows]:
    """For each round the rows of all sides, (python, the script's words) each."""
    results = []
    for at in range(count):
        if sys.stderr.isatty():
            print(f"\r{script}: round {at + 1} of {count} ", end="\r", file=sys.stderr, flush=True)
        rows: Rows = {}
        for python, *words in sides:
            rows |= run(python, script, *words, env=env)
        results.append(rows)
    return results


def spread(results: Sequence[Rows], name: str, key: str, factor: float = 1.0) -> tuple[float, float, float]:
    """Median, min and max of all samples of a row."""
    samples = [sample * factor for rows in results for sample in rows[name][key]]
    return statistics.median(samples), min(samples), max(samples)


def ratios(results: Sequence[Rows], above: str, below: str, key: str) -> tuple[float, float, float]:
    """Median, min and max over the rounds of a row's median over another's in the same round."""
    each = [statistics.median(rows[above][key]) / statistics.median(rows[below][key]) for rows in results]
    return statistics.median(each), min(each), max(each)


def same_work(results: Sequence[Rows], names: Sequence[str]) -> str:
    """One line: what was done, or that not all did the same."""
    first, *others = [rows[name]["work"] for rows in results for name in names]
    if any(other != first for other in others):
        return f"NOT THE SAME WORK: {[first, *others]}"
    return "the same work: " + ", ".join(f"{key} {value}" for key, value in first.items())


def bar(text: str, met: bool) -> None:
    print(f"bar: {text}: {'met' if met else 'MISSED'}")


def machine(*dists: str) -> str:
    """Python, the versions of these dists, the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    versions = [f"{dist} {importlib.metadata.version(dist)}" for dist in dists]
    return f"Python {platform.python_version()}, {', '.join(versions)}; {os.cpu_count()} cores, {processor}"
