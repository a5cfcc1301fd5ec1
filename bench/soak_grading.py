"""Whether the grader of mathematics stands a long run: `python bench/soak_grading.py`.

100,000 replies, every hundredth hostile, 64 at a time in one event loop: the memory of the process and its
workers, the longest callback of the loop by its own CPU time, and whether a process is left at the end. Then
the same is interrupted by SIGINT and by SIGTERM. The replies are the labelled cases of ../shared, or else
those of the grader's tests; half of them have their numbers replaced, in reply and reference alike, so that
these were never graded before. Linux only: it reads /proc. A missed bar is no failure of the command.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gc
import itertools
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memory import resident_mib
from side_by_side import bar, machine

from cookbook import Grade, Message
from cookbook_plugin_math import pool as pools
from cookbook_plugin_math.answer import Answer
from cookbook_plugin_math.grading import pool, warm

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT.parent / "shared" / "goldens" / "math"
TESTS = ROOT / "plugins" / "math" / "tests"
AT_ONCE = 64
GRADINGS, SETTLED, READ_EVERY, HOSTILE_EVERY = 100_000, 10_000, 5_000, 100
FLAT_MIB, HELD_MS = 50, 50
ENDED_S = 10.0  # for all processes to be gone after a signal; a worker ends itself within 1 s
_NUMBER = re.compile(r"\d+")
_LONG = 2000  # characters; what is longer stays as it is


def replies(scratch: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(reply, reference) each: those to be graded, and hostile ones."""
    texts = runpy.run_path(str(TESTS / "test_grading.py"))["HOSTILE"]
    hostile = [(text, reference) for text in texts for reference in ("5", "x+1")]
    if not CASES.is_dir():
        rows = json.loads((TESTS / "answers.json").read_text(encoding="utf-8"))
        told = [(f"\\boxed{{{a}}}", r["reference"]) for r in rows for a in r["right"] + r["wrong"]]
        return told, hostile

    def text(said: Any) -> str:
        if isinstance(said, dict):
            before, unit, count, after = said["$repeat"]
            return before + unit * count + after
        return said.replace("@CANARY@", f"{scratch}/canary")

    def read(name: str) -> list[tuple[str, str]]:
        lines = (CASES / name).read_text(encoding="utf-8").splitlines()
        return [(text(row["text"]), text(row["gold"])) for row in map(json.loads, lines)]

    return read("cases_public.jsonl"), hostile + read("cases_hostile.jsonl")


def varied(case: tuple[str, str], rng: random.Random) -> tuple[str, str]:
    """The same number for the same number, in the reply and the reference."""
    if sum(map(len, case)) > _LONG:
        return case
    found = set(_NUMBER.findall("\n".join(case)))
    numbers = {each: str(rng.randrange(2, 10 ** min(len(each) + 1, 6))) for each in sorted(found)}
    reply, reference = (_NUMBER.sub(lambda match: numbers[match.group()], side) for side in case)
    return reply, reference


def stream(seed: int, hostile_every: int, scratch: str) -> Iterator[tuple[str, str]]:
    rng = random.Random(seed)
    told, hostile = replies(scratch)
    for at in itertools.count(1):
        if at % hostile_every == 0:
            yield hostile[at // hostile_every % len(hostile)]
        else:
            case = rng.choice(told)
            yield varied(case, rng) if rng.random() < 0.5 else case


class Watch:
    """What is looked at while replies are graded."""

    def __init__(self) -> None:
        self.held_ms, self.held_by = 0.0, ""  # the longest callback, and what it graded
        self.held_gc_ms = 0.0  # what of that were garbage collections
        self.gc_ms, self._gc_began = 0.0, 0.0  # of the callback under way
        self.grading = ""
        self.started = 0  # workers, later ones included
        self.readings: list[tuple[int, float, float]] = []  # gradings, MiB of this process and of workers

    def begin(self) -> None:
        run, start = asyncio.Handle._run, pools.Pool._start

        def _run(handle: Any) -> None:
            self.grading, self.gc_ms, began = "", 0.0, time.thread_time()
            run(handle)
            held_ms = (time.thread_time() - began) * 1e3
            if held_ms > self.held_ms:
                self.held_ms, self.held_gc_ms = held_ms, self.gc_ms
                self.held_by = self.grading or repr(handle)

        def _start(pool: Any) -> Any:
            self.started += 1
            return start(pool)

        asyncio.Handle._run, pools.Pool._start = _run, _start
        gc.callbacks.append(self.collecting)

    def collecting(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._gc_began = time.thread_time()
        else:
            self.gc_ms += (time.thread_time() - self._gc_began) * 1e3

    def read(self, done: int) -> None:
        ids = [worker.process.pid for worker in list(pool("symbolic")._workers)]
        self.readings.append((done, resident_mib(os.getpid()), sum(map(resident_mib, ids))))

    def flat_mib(self, settled: int) -> tuple[float, float]:
        """Max - min once settled: of this process, and of all."""
        later = [(own, own + theirs) for done, own, theirs in self.readings if done >= settled]
        return tuple(max(each) - min(each) for each in zip(*later, strict=True))


async def soak(cases: Iterator[tuple[str, str]], watch: Watch, every: int) -> dict[str, Any]:
    """Grades them all. Reads the memory after each `every`, once both workers are there."""
    grader, verdicts, reasons = Answer(), collections.Counter(), collections.Counter()
    done, due = 0, every

    def count(grade: Grade) -> None:
        nonlocal done, due
        done += 1
        verdicts[f"{grade.verdict} ({grade.stage})"] += 1
        if grade.verdict == "undecided":
            reasons[f"{grade.stage}: {grade.detail.partition('; read ')[0][:60]}"] += 1
        if done >= due and pool("symbolic")._ready == 2:
            watch.read(done)
            due += every

    async def one_by_one() -> None:
        for reply, reference in cases:
            watch.grading = f"{len(reply)} characters, {reply[:60]!r} for {reference[:40]!r}"
            made: Any = grader.grade([], Message(role="assistant", content=reply), reference)
            if isinstance(made, Grade):
                await asyncio.sleep(0)  # so that a callback grades one reply
            else:
                made = await made
            count(made)

    await asyncio.gather(*(one_by_one() for _ in range(AT_ONCE)))
    return {"verdicts": dict(verdicts.most_common()), "undecided": dict(reasons.most_common(12))}


def work(gradings: int, seed: int, hostile_every: int) -> dict[str, Any]:
    """In this process; what was seen."""
    watch, scratch = Watch(), tempfile.mkdtemp()
    cases = list(itertools.islice(stream(seed, hostile_every, scratch), gradings))
    watch.begin()
    warm()
    gc.collect()
    gc.freeze()
    began, cpu = time.perf_counter(), time.process_time()
    seen = asyncio.run(soak(iter(cases), watch, min(READ_EVERY, gradings // 10)))
    own_mib, all_mib = watch.flat_mib(min(SETTLED, gradings // 2))
    seen |= {
        "gradings": gradings,
        "distinct": len(set(cases)),
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "own_mib": own_mib,
        "all_mib": all_mib,
        "readings": watch.readings,
        "held_ms": watch.held_ms,
        "held_gc_ms": watch.held_gc_ms,
        "held_by": watch.held_by,
        "started": watch.started,
        "executed": len(os.listdir(scratch)),  # noqa: PTH208
    }
    os.rmdir(scratch)  # noqa: PTH106
    return seen


def group(leader: int) -> list[int]:
    """The processes of a process group that have not ended."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its = file.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its) == leader and state not in "ZX":
            found.append(int(file.parent.name))
    return found


def left_over(leader: int) -> list[int]:
    """What is still there of a process group at the deadline; ended then."""
    deadline = time.monotonic() + ENDED_S
    while (left := group(leader)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def child(*words: str, stderr: int | None = None) -> subprocess.Popen[str]:
    """This script in a process group of its own, which its workers belong to as well."""
    command = [sys.executable, str(Path(__file__).resolve()), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, process_group=0)


def whole(
    gradings: int, seed: int = 0, hostile_every: int = HOSTILE_EVERY
) -> tuple[dict[str, Any], list[int]]:
    """What a process of its own saw, and which processes were left of it."""
    sizes = (f"--gradings={gradings}", f"--seed={seed}", f"--hostile-every={hostile_every}")
    with child("--work", *sizes) as process:
        out, _ = process.communicate()
    left = left_over(process.pid)
    if process.returncode:
        sys.exit(f"the soak ended with exit code {process.returncode}")
    return json.loads(out.splitlines()[-1]), left


def interrupted(number: signal.Signals, seed: int = 0) -> dict[str, Any]:
    """Of a soak that got a signal in the middle: how many processes it had, its exit code, what was left."""
    with child("--endless", f"--seed={seed}", stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        had, began = len(group(process.pid)), time.perf_counter()
        process.send_signal(number)
        left = left_over(process.pid)
        seconds = time.perf_counter() - began
    return {"had": had, "code": process.returncode, "left": left, "seconds": seconds}


def endless(seed: int) -> None:
    """Grades until a signal; tells once that it is in the middle."""

    def cases() -> Iterator[tuple[str, str]]:
        for at, case in enumerate(stream(seed, HOSTILE_EVERY, tempfile.gettempdir() + "/none")):
            if at == 500:
                print("in the middle", flush=True)
            yield case

    warm()
    asyncio.run(soak(cases(), Watch(), 10**9))


def report(seen: dict[str, Any], left: list[int]) -> None:
    print(f"{seen['gradings']} gradings ({seen['distinct']} distinct), {AT_ONCE} at a time: ", end="")
    rate, cpu_us = seen["gradings"] / seen["seconds"], seen["cpu_s"] / seen["gradings"] * 1e6
    print(f"{seen['seconds']:.0f} s, {rate:.0f} a second; {cpu_us:.0f} us of CPU each in the loop's process")
    for done, own, theirs in seen["readings"]:
        print(f"  after {done:7}: {own:7.1f} MiB, workers {theirs:7.1f} MiB")
    print("  verdicts: " + ", ".join(f"{name} {n}" for name, n in seen["verdicts"].items()))
    print("  undecided: " + "; ".join(f"{name} {n}" for name, n in seen["undecided"].items()))
    print(f"  workers started {seen['started']}; files that replies made {seen['executed']}")
    print(f"  the longest callback, {seen['held_gc_ms']:.1f} ms of it garbage collections: {seen['held_by']}")
    own_mib, all_mib, held_ms = seen["own_mib"], seen["all_mib"], seen["held_ms"]
    flat = f"memory flat within {FLAT_MIB} MiB, {all_mib:.1f} MiB, {own_mib:.1f} MiB without the workers"
    bar(flat, max(own_mib, all_mib) <= FLAT_MIB)
    bar(f"no callback over {HELD_MS} ms of CPU time, {held_ms:.1f} ms", held_ms <= HELD_MS)
    bar(f"no process left at the end, {len(left)}", not left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gradings", type=int, default=GRADINGS, help="at least 10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hostile-every", type=int, default=HOSTILE_EVERY, help="of so many one is hostile")
    parser.add_argument("--work", action="store_true", help="print what was seen as JSON, and no more")
    parser.add_argument("--endless", action="store_true", help="grade until a signal comes")
    asked = parser.parse_args()
    if asked.work:
        print(json.dumps(work(asked.gradings, asked.seed, asked.hostile_every)))
        return
    if asked.endless:
        endless(asked.seed)
        return
    print(machine("cookbook-plugin-math", "mpmath"))
    report(*whole(asked.gradings, asked.seed, asked.hostile_every))
    for number in (signal.SIGINT, signal.SIGTERM):
        seen = interrupted(number, asked.seed)
        print(f"  {number.name}: {seen['had']} processes, exit code {seen['code']}, ", end="")
        print(f"gone in {seen['seconds']:.2f} s")
        bar(f"no process left after {number.name}, {len(seen['left'])}", not seen["left"])


if __name__ == "__main__":
    main()
