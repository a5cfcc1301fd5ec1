"""Grading mathematics beside tinker-cookbook's sympy grader and math-verify: `python bench/grading.py`.

The cases are the labelled ones of ../shared; without them nothing is measured. Each side runs in processes
of its own, in turn with the others, a new one each round, so that no case was graded before; a reference that
several cases share is read once, where a side remembers it. A peer's case that takes over 5 s is ended,
counted and left out of the times. CPU time is that of a side's process and its workers. A missed bar is no
failure of the command.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from side_by_side import HERE, Rows, bar, machine, ratios, rounds, spread

CASES = HERE.parents[1] / "shared" / "goldens" / "math" / "cases_public.jsonl"
PEER = HERE.parent / ".bench" / "bin" / "python"
ROUNDS = 3
SIDES = ("ours", "tinker", "verify")
FIGURES = {"median_s": "median", "p99_s": "p99", "mean_s": "mean"}


def figures(results: Sequence[Rows], side: str, key: str, factor: float) -> str:
    median, low, high = spread(results, side, key, factor)
    return f"{median:9,.0f}" + f"({low:,.0f}-{high:,.0f})".rjust(18)


def least(results: Sequence[Rows], side: str) -> float:
    """The median over the cases of the least wall time that a case took in any round: what else the machine
    does adds to most grades of a round, and rarely to one case in all rounds."""
    cases = zip(*(rows[side]["case_s"] for rows in results), strict=True)
    return statistics.median(min(filter(None, each)) for each in cases if any(each))


def table(results: Sequence[Rows]) -> None:
    for key, label in FIGURES.items():
        print(f"  {f'us a grade, {label}':32}{'wall time (min-max)':>27}{'CPU time (min-max)':>27}", end="")
        print(f"{'over ours, wall':>18}{'CPU':>9}")
        for side in SIDES:
            times = [ratios(results, side, "ours", each)[0] for each in (key, f"cpu_{key}")]
            print(f"  {results[0][side]['name']:32}", end="")
            print("".join(figures(results, side, each, 1e6) for each in (key, f"cpu_{key}")), end="")
            print(f"{times[0]:18.1f}{times[1]:9.1f}")
    told = [f"{results[0][side]['name']} {least(results, side) * 1e6:,.0f}" for side in SIDES]
    print(f"  us a grade, median of each case's least over the rounds: {'; '.join(told)}")
    print(f"  {'grades a second':32}{'wall, 2 cores (min-max)':>27}{'CPU time (min-max)':>27}", end="")
    print(f"{'ours over, wall':>18}{'CPU':>9}")
    for side in SIDES:
        times = [ratios(results, "ours", side, each)[0] for each in ("a_second", "a_cpu_s")]
        print(f"  {results[0][side]['name']:32}", end="")
        print("".join(figures(results, side, each, 1) for each in ("a_second", "a_cpu_s")), end="")
        print(f"{times[0]:18.1f}{times[1]:9.1f}")
    print(f"  {'cookbook, all graded before':32}{figures(results, 'ours', 'again_a_second', 1)}")


def facts(results: Sequence[Rows], count: int) -> None:
    for side in SIDES:
        seen = [rows[side]["work"] for rows in results]
        told = [f"accuracy {sum(each['accuracy'] for each in seen) / len(seen) / count:.3f}"]
        for key in ("false accepts", "raised", "hangs"):
            numbers = sorted({each[key] for each in seen})
            told.append(f"{key} {numbers[0]}" + (f" to {numbers[-1]}" if numbers[1:] else ""))
        print(f"  {results[0][side]['name']:32}{', '.join(told)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=str(PEER), help="the Python that the peers are installed for")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    if not CASES.is_file():
        print(f"\ngrading isn't measured: its cases aren't there, {CASES}")
        return
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "cases.json")
        file.write_text(json.dumps(cases))
        pythons = {"ours": sys.executable, "tinker": asked.peer, "verify": asked.peer}
        sides = [(python, side, str(file)) for side, python in pythons.items()]
        results = rounds(asked.rounds, "grading_side.py", sides)
    print(f"\n{machine('cookbook-plugin-math', 'mpmath')}; {asked.rounds} rounds")
    print(f"Grading mathematics: {len(cases)} cases, {len({case['gold'] for case in cases})} references")
    table(results)
    facts(results, len(cases))
    median, cpu = (spread(results, "ours", key, 1e6)[0] for key in ("median_s", "cpu_median_s"))
    bar(f"median at most 80 us, {median:.0f} us (CPU time {cpu:.0f} us)", median <= 80)
    part, cpu = (ratios(results, "ours", "verify", key)[0] for key in ("p99_s", "cpu_p99_s"))
    bar(f"p99 at most a tenth of math-verify's, {part:.3f} (CPU time {cpu:.3f})", part <= 0.1)


if __name__ == "__main__":
    main()
