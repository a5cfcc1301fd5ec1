"""Renderers, one side of them: `python renderers_side.py SIDE JOBS` prints one line of JSON. JOBS is a file
of jobs, one a renderer; all sides get the same.

A side has `name` and `Side(job)`. Of that, `ways(kind)` gives what is timed for a kind of measurement, {name:
(make, work)}: `make()` gives what must be new for a repeat and isn't timed, `work(made)` is timed and gives
results; `tokens(results)` is how many tokens they hold. What tokenizers keep stays, on every side.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from laps import Laps

Ways = Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]]
KINDS = ("prompts", "examples", "long", "growing")
REPEATS = 5


def measure(ways: Ways, tokens: Callable[[Any], int]) -> dict[str, dict[str, Any]]:
    """A row a way, all in turn. The first repeat isn't counted."""
    laps = {name: Laps() for name in ways}
    found = {}
    for _ in range(REPEATS + 1):
        for name, (make, work) in ways.items():
            made = make()
            gc.collect()
            laps[name].begin()
            results = work(made)
            laps[name].lap()
            found[name] = tokens(results)
    return {name: laps[name].row() | {"work": {"tokens": found[name]}} for name in ways}


def main(name: str, file: str) -> None:
    module = importlib.import_module(f"adapters.renderers_{name}")
    rows = {}
    for job in json.loads(Path(file).read_text()):
        side = module.Side(job)
        gc.collect()
        gc.freeze()  # what was imported and loaded is never garbage
        for kind in KINDS:
            for way, row in measure(side.ways(kind), side.tokens).items():
                rows[f"{job['name']} {kind} {name}{way and ' '}{way}"] = row | {"name": module.name}
    print(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
