"""A grader of mathematics, one side of them: `python grading_side.py SIDE CASES` prints one line of JSON.

A side has `name`, `grade(text, reference)`, `boxed` (a bare answer is given to it in a box) and `killed` (it
grades in forks of this process, which are killed when a case takes over 5 s). A side that isn't killed also
has `begin()`, `workers()` (the ids of its processes), `forget()` (its caches) and `together(cases)`.

First every case by itself, its first call timed; then all cases as fast as two cores do them.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import resource
import select
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

LIMIT_S = 5.0
PASSES = 5  # over all cases, of a side that isn't killed; one is too short to time
WARMING = [("\\boxed{3}", "3"), ("\\boxed{x^2+1}", "1+x^2"), ("\\boxed{(1,2)}", "(1,2)")]
WARMING += [("\\boxed{\\frac{1}{2}}", "0.5"), ("\\boxed{[0,1)}", "[0,1)"), ("\\boxed{(t+1)^2}", "t^2+2t+1")]
Grade = Callable[[str, str], bool]
Case = Sequence[str]  # a text, a reference
Result = tuple[bool, bool, float, float]  # right; raised; seconds and CPU seconds of the call


def cpu_s(workers: Iterable[int]) -> float:
    """Of this process and others; Linux gives every process a clock (clock_getcpuclockid(3))."""
    return time.process_time() + sum(time.clock_gettime(~pid << 3 | 2) for pid in workers)


def graded(grade: Grade, case: Case, workers: Sequence[int]) -> Result:
    right = raised = False
    cpu, wall = cpu_s(workers), time.perf_counter()
    try:
        right = bool(grade(*case))
    except Exception:
        raised = True
    wall = time.perf_counter() - wall
    return right, raised, wall, cpu_s(workers) - cpu


class Fork:
    """Grades cases in a process of its own; `results` has None for those that it had to be killed at."""

    def __init__(self, grade: Grade, cases: Sequence[Case], ids: Iterable[int]) -> None:
        self.grade, self.cases, self.left = grade, cases, deque(ids)
        self.results: dict[int, Result | None] = {}
        self.start()

    def start(self) -> None:
        self.fd, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for at in self.left:
                os.write(told, json.dumps(graded(self.grade, self.cases[at], ())).encode() + b"\n")
            os._exit(0)
        os.close(told)
        self.deadline = time.monotonic() + LIMIT_S

    def read(self) -> None:
        """Once there is something to read: results, or the process's end."""
        lines = os.read(self.fd, 2**16).splitlines()  # a short write to a pipe is one piece
        for line in lines:
            self.results[self.left.popleft()] = json.loads(line)
        self.deadline = time.monotonic() + LIMIT_S
        if not lines or not self.left:
            self.go_on()

    def go_on(self) -> None:
        """After a case that took too long or ended the process, if one did."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)
        if self.left:
            self.results[self.left.popleft()] = None
        if self.left:
            self.start()


def in_forks(grade: Grade, cases: Sequence[Case], count: int) -> list[Result | None]:
    forks = [Fork(grade, cases, range(at, len(cases), count)) for at in range(count)]
    while live := {fork.fd: fork for fork in forks if fork.left}:
        first = min(fork.deadline for fork in live.values())
        for fd in select.select(list(live), [], [], max(0, first - time.monotonic()))[0]:
            live.pop(fd).read()
        for fork in live.values():
            if time.monotonic() > fork.deadline:
                fork.go_on()
    done = {at: result for fork in forks for at, result in fork.results.items()}
    return [done[at] for at in range(len(cases))]


def one_by_one(side: Any, cases: Sequence[Case]) -> list[Result | None]:
    if side.killed:
        return in_forks(side.grade, cases, 1)
    workers = side.workers()
    return [graded(side.grade, case, workers) for case in cases]


def throughput(side: Any, cases: Sequence[Case]) -> dict[str, list[float]]:
    """Grades a second of wall time, over two cores, and a second of CPU time."""
    if side.killed:
        used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        in_forks(side.grade, cases, 2)
        wall, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        return {"a_second": [len(cases) / wall], "a_cpu_s": [len(cases) / cpu]}
    walls, began = [], cpu_s(side.workers())
    for _ in range(PASSES):
        side.forget()
        walls.append(side.together(cases))
    cpu = (cpu_s(side.workers()) - began) / PASSES
    again = side.together(cases)
    return {
        "a_second": [len(cases) * PASSES / sum(walls)],
        "a_cpu_s": [len(cases) / cpu],
        "again_a_second": [len(cases) / again],
    }


def times(results: Sequence[Result]) -> dict[str, list[float]]:
    row = {}
    for key, at in (("", 2), ("cpu_", 3)):
        samples = sorted(result[at] for result in results)
        row[f"{key}median_s"] = [statistics.median(samples)]
        row[f"{key}p99_s"] = [samples[int(0.99 * len(samples))]]
        row[f"{key}mean_s"] = [statistics.fmean(samples)]
    return row


def main(name: str, file: str) -> None:
    logging.disable(logging.CRITICAL)
    side = importlib.import_module(f"adapters.grading_{name}")
    rows = json.loads(Path(file).read_text())
    boxed = [f"\\boxed{{{r['text']}}}" if side.boxed and r["kind"] == "answer" else r["text"] for r in rows]
    cases = [(text, row["gold"]) for text, row in zip(boxed, rows, strict=True)]
    if not side.killed:
        side.begin()
    for case in WARMING:
        side.grade(*case)
    gc.collect()
    gc.freeze()  # what was imported is never garbage
    results = one_by_one(side, cases)
    said = [bool(result and result[0]) for result in results]
    wanted = [bool(row["expected"]) for row in rows]
    work = {
        "accuracy": sum(s == w and r is not None for s, w, r in zip(said, wanted, results, strict=True)),
        "false accepts": sum(s and not w for s, w in zip(said, wanted, strict=True)),
        "raised": sum(bool(result and result[1]) for result in results),
        "hangs": results.count(None),
    }
    in_time = [result for result in results if result is not None]
    fit = [case for case, result in zip(cases, results, strict=True) if result is not None]
    row = times(in_time) | throughput(side, fit) | {"work": work, "name": side.name}
    row |= {"case_s": [result and result[2] for result in results]}  # None: over the limit
    print(json.dumps({name: row}))


if __name__ == "__main__":
    main(*sys.argv[1:])
