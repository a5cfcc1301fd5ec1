"""How long `cookbook list` takes: with core and the plugins here, and with 200 more dists, beside
`python -c pass`. Medians of ten runs each, taken in turn, after one run that isn't counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS, DISTS = 10, 200


def make_dists(folder: Path) -> None:
    """200 installed plugins: a package with hooks, and the metadata that pip would leave."""
    for i in range(DISTS):
        package, dist = folder / f"dummy_{i}", folder / f"dummy_{i}-1.0.dist-info"
        package.mkdir()
        dist.mkdir()
        (package / "__init__.py").write_text(
            "from cookbook import hookimpl\n\n\n@hookimpl\ndef register_envs(register):\n"
            f"    register('one', 'dummy_{i}.envs:One', 'An environment')\n"
            f"    register('two', 'dummy_{i}.envs:Two', 'Another environment')\n"
        )
        (dist / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: dummy-{i}\nVersion: 1.0\n"
            "Requires-Dist: cookbook-core<0.2,>=0.1\n\n" + "A description. " * 200
        )
        (dist / "entry_points.txt").write_text(f"[cookbook]\ndummy{i} = dummy_{i}\n")


def seconds(command: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    # With compiled modules, as pip leaves them, whatever this shell says.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    cookbook = [sys.executable, "-m", "cookbook.cli", "list"]
    with tempfile.TemporaryDirectory() as folder:
        make_dists(Path(folder))
        crowded = env | {"PYTHONPATH": folder}
        cases = {
            "python -c pass": ([sys.executable, "-c", "pass"], env),
            "cookbook list": (cookbook, env),
            f"cookbook list, {DISTS} more dists": (cookbook, crowded),
        }
        listed = subprocess.run(cookbook, env=crowded, check=True, capture_output=True, text=True).stdout
        assert listed.count("An environment") == DISTS, listed
        times: dict[str, list[float]] = {name: [] for name in cases}
        for i in range(RUNS + 1):
            for name, (command, its_env) in cases.items():
                taken = seconds(command, its_env)
                if i:
                    times[name].append(taken)
    base = statistics.median(times["python -c pass"])
    print(f"{'':34}{'median':>9}{'min':>9}{'max':>9}   times python -c pass")
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:34}{median:8.3f}s{min(taken):8.3f}s{max(taken):8.3f}s{median / base:10.1f}")


if __name__ == "__main__":
    main()
