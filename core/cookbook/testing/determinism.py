"""L2: the same id, config and seed give the same episodes, whatever else happens in the process."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from ..streams import stream
from ..types import Episode, Message, Question, Task
from .drive import Policy, Table, always, anything, play, text_of
from .rules import Report
from .subject import FAULTS, Subject, build, named, openings, print_of, short, spread, told

LEAK_TASKS = 2000
"""How many tasks of each split are looked at for what both have."""
LEAK_S = 20.0
"""How long that may take; what was seen by then is what is compared."""
DISTINCT = 0.9
"""The share of tasks that begin each in its own way where an opening says which task it is."""
PLAYED = 6
"""How many tasks are played again, reseeded and interleaved."""
REPLAYS = 6
"""How often the first of them is: what changes a little each time may come out alike once or twice."""


def check_determinism(subject: Subject, report: Report) -> None:
    """Looks at L2, of an environment that keeps L1."""
    for part in (_prompts, _order, _hash_seed, _episodes, _pickles, _leak):
        if part in (_order, _hash_seed, _episodes) and report.found("L2.prompts", "L2.order"):
            continue  # what follows from it is no fault of its own
        try:
            part(subject, report)
        except FAULTS as error:
            report.find("L1.raises", told(getattr(error, "error", error)))


def _firsts(tasks: Sequence[Task], backwards: bool = False) -> list[list[Message]]:
    """The openings of the audited places, made from the last on where `backwards`."""
    places = spread(len(tasks), 24)
    found = openings(tasks[i] for i in (reversed(places) if backwards else places))
    return found[::-1] if backwards else found


def _prompts(subject: Subject, report: Report) -> None:
    first, again = _firsts(subject.train), _firsts(subject.tasks("train"))
    if print_of(first) == print_of(again):
        return
    # What was read before, and all that is built from now on alike, is a matter of the order.
    steady = print_of(again) == print_of(_firsts(subject.tasks("train")))
    rule, when = ("L2.order", "once others were read") if steady else ("L2.prompts", "built twice")
    for a, b in zip(first, again, strict=False):
        if print_of(a) != print_of(b):
            report.find(rule, f"{when}, a task begins {_pair(a, b)}")
            return
    report.find(rule, f"{when}, there are {len(first)} tasks to look at and then {len(again)}")


def _pair(a: Sequence[Message], b: Sequence[Message]) -> str:
    """Where two lists of messages differ first."""
    for x, y in zip(a, b, strict=False):
        if print_of(x) != print_of(y):
            return f"{_near(print_of(x), print_of(y))!r} and {_near(print_of(y), print_of(x))!r}"
    return f"with {len(a)} messages and {len(b)}"


def _near(text: str, other: str) -> str:
    at = next(
        (i for i, (x, y) in enumerate(zip(text, other, strict=False)) if x != y), min(len(text), len(other))
    )
    return short(text[max(0, at - 20) : at + 40])


def _order(subject: Subject, report: Report) -> None:
    """Another config in between, its splits the other way about, the tasks from the last on."""
    first = _firsts(subject.train)
    other = subject.make()
    openings([other.tasks("test")[0]] if len(subject.test) else ())
    again = _firsts(other.tasks("train"), backwards=True)
    for a, b in zip(first, again, strict=False):
        if print_of(a) != print_of(b):
            report.find("L2.order", f"a task read from the last on begins {_pair(a, b)}")
            return


def prompts_digest(id: str, values: dict[str, Any]) -> str:
    """What two processes have in common where they give the same prompts."""
    config = build(id, values)
    texts = [print_of(messages) for messages in _firsts(config.tasks("train"))]
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


_CHILD = """
import json, sys
from cookbook.testing.determinism import prompts_digest
id, values = json.loads(sys.argv[1])
print("digest", prompts_digest(id, values))
"""


def _hash_seed(subject: Subject, report: Report) -> None:
    """Sets and `hash()` differ from process to process."""
    if not subject.id:
        report.unchecked["L2.processes"] = "the check was given an object, which no other process can build"
        return
    here = prompts_digest(subject.id, dict(subject.values))
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    words = [sys.executable, "-c", _CHILD, json.dumps([subject.id, dict(subject.values)])]
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    limit = 60 + 6 * subject.patience_s
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=limit)
    except subprocess.TimeoutExpired:
        report.find("L2.processes", f"another process made no prompts in {limit:g} s")
        return
    said = [line for line in done.stdout.splitlines() if line.startswith("digest ")]
    if not said:
        report.find("L2.processes", f"in another process: {short(done.stderr.strip()[-300:])}")
    elif said[-1] != f"digest {here}":
        report.find("L2.processes", f"with PYTHONHASHSEED={seed} the prompts are others")


def _episodes(subject: Subject, report: Report) -> None:
    """Alone, again, after another seed of the global generators, and with others in between."""
    tables = [table for i in spread(len(subject.audited), PLAYED) for table in _tables(subject, i)]
    alone = [_under(1, [table], subject) for table in tables]
    for table, first in zip(tables, alone, strict=True):
        seeds = {1: "L2.replay", 2: "L2.global-random"}
        often = REPLAYS if table.task is tables[0].task else 1
        for seed in (*[1] * often, 2):
            again = _under(seed, [table], subject)
            if again != first:
                report.find(
                    seeds[seed], f"{named(table.task)}: the same replies gave {_changed(first, again)}"
                )
                return
    together = _under(1, tables, subject, size=2)
    apart = [episode for episodes in alone for episode in episodes * 2]
    if together != apart:
        at = next(i for i, (a, b) in enumerate(zip(apart, together, strict=True)) if a != b)
        report.find(
            "L2.interleaved",
            f"{named(tables[at // (2 * subject.seats)].task)} beside others: the same replies gave "
            f"{_changed(apart[at : at + 1], together[at : at + 1])}",
        )


def _tables(subject: Subject, i: int) -> list[Table]:
    """Random replies; and what ought to win as the task says it first, which shows a task that changes."""
    policies = [_steady(["yes", "1", "2", "hold", "A", "[roll]", "[1]"])]
    if i in subject.answers:
        policies.append(always(subject.answers[i]))
    task = subject.audited[i]
    actions = re.findall(r"\[\w[^\]\n]{0,40}\]", "".join(map(text_of, openings([task])[0])))
    if actions:  # other words may end a game before it has thrown its dice
        policies.append(lambda messages, key: actions[stream(len(messages), *key[-2:]) % len(actions)])
    return [Table(task, policy, ("replay", i)) for policy in policies]


def _steady(pool: Sequence[str]) -> Policy:
    """Replies that depend on the place alone, wherever the table stands among others."""
    policy = anything(pool)
    return lambda messages, key: policy(messages[:1], ("replay", len(messages), *key[-2:]))


def _under(seed: int, tables: Sequence[Table], subject: Subject, size: int = 1) -> list[tuple[str, str]]:
    """What was said and what it was worth, with the global generators seeded first, and put back."""
    state = random.getstate()
    numpy_state = _numpy().get_state() if _numpy() else None
    random.seed(seed)
    if _numpy():
        _numpy().seed(seed)
    try:
        return [_outcome(e) for e in play(tables, size=size, seconds=subject.patience_s)]
    finally:
        random.setstate(state)
        if numpy_state is not None:
            _numpy().set_state(numpy_state)


def _numpy() -> Any:
    return getattr(sys.modules.get("numpy"), "random", None)


def _outcome(episode: Episode) -> tuple[str, str]:
    worth = {"reward": episode.reward, "correct": episode.correct, "stop": episode.stop_reason}
    return print_of(episode.messages), print_of(worth)


def _changed(before: Sequence[tuple[str, str]], after: Sequence[tuple[str, str]]) -> str:
    for (said, worth), (said_then, worth_then) in zip(before, after, strict=True):
        if worth != worth_then:
            return f"{worth} and then {worth_then}"
        if said != said_then:
            return f"{_near(said, said_then)!r} and then {_near(said_then, said)!r}"
    return "the same"


def _pickles(subject: Subject, report: Report) -> None:
    for task in subject.audited[:3]:
        try:
            again = pickle.loads(pickle.dumps(task))
        except FAULTS as error:
            report.find("L2.pickle", f"{named(task)}: {told(error)}")
            return
        before, loaded, after = map(print_of, openings([task, again, task]))
        if loaded != before == after:
            report.find("L2.pickle", f"{named(task)} begins otherwise once it was pickled")
            return


def _leak(subject: Subject, report: Report) -> None:
    if not len(subject.test):
        return
    limit = time.monotonic() + LEAK_S
    trained = _marks(subject.train, limit - LEAK_S / 2)
    held_out = _marks(subject.test, limit)
    report.facts["tasks/compared"] = [len(trained), len(held_out)]
    begins = {mark[0] for mark in trained}
    if len(begins) > DISTINCT * len(trained):  # the opening says which task it is
        trained, held_out = ({mark[:1]: i for mark, i in of.items()} for of in (trained, held_out))
    elif len(begins) == 1 and not trained.keys() - {(*begins, "")}:
        report.unchecked["L2.leak"] = "every task begins the same and doesn't pickle"
        return
    both = [mark for mark in held_out if mark in trained]
    if both:
        share = len(both) / len(held_out)
        where = f"train[{trained[both[0]]}] and test[{held_out[both[0]]}] are {short(both[0][0], 100)}"
        report.find(
            "L2.leak", f"{len(both)} of {len(held_out)} held-out tasks ({share:.0%}) train too: {where}"
        )


def _marks(tasks: Sequence[Task], limit: float) -> dict[tuple[str, ...], int]:
    """What tells each of these tasks from others, and its place: its opening, and its pickle, since a game
    may begin always alike."""
    half = min(len(tasks), LEAK_TASKS // 2)
    places = [*range(half), *(i for i in spread(len(tasks), LEAK_TASKS - half) if i >= half)]
    found: dict[tuple[str, ...], int] = {}
    for i in places:
        if time.monotonic() > limit:
            break
        task = tasks[i]
        found.setdefault(_mark(task), i)
    return found


def _mark(task: Task) -> tuple[str, ...]:
    if isinstance(task, Question):
        return print_of(task.prompt), ""
    (messages,) = openings([task])
    try:
        return print_of(messages), hashlib.sha256(pickle.dumps(task)).hexdigest()
    except FAULTS:
        return print_of(messages), ""
