"""Grades a reply against a reference answer: right, wrong or undecided, with the stage that said so.

    extract -> text -> normal -> number -> structure     here, well under a millisecond
            -> symbolic                                  in workers that can be killed
            -> math-verify                               likewise, where it is asked for and installed

Safe with any text, from any thread and inside an event loop.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import threading
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import Any

from cookbook import Grade
from cookbook.errors import ConfigError

from .deciding import Decision, decide
from .errors import NeedsSymbols
from .extraction import Extracted, extract
from .pool import Pool

_LOCK = threading.Lock()  # of the pools, and of what is kept
_CACHED = 8192  # verdicts of the symbolic stage, of short answers
_SHORT = 300  # characters
_MEMORY_MB = 512
_TIMEOUT_S = {"symbolic": 0.8, "opinion": 5.0}
_MAX_OPINION = 100_000  # characters of a reply, its last ones, that math-verify is given


def _after_fork() -> None:
    """A thread that isn't in the child may have held the lock."""
    global _LOCK
    _LOCK = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class Grading:
    """Grades replies; `opinion` asks math-verify, which must be there, about what isn't read or decided."""

    def __init__(self, opinion: bool = False) -> None:
        self.opinion = opinion
        if opinion:
            require_math_verify()

    def start(self, text: str, reference: Any) -> Grade | Future[Grade]:
        """The grade, or the promise of it where a worker is needed. Never waits and never raises."""
        try:
            return self._start(text, str(reference))
        except Exception as e:  # a fault of ours must not end a run: it is told, and decides nothing
            return Grade("undecided", stage="fault", detail=f"{type(e).__name__}: {e}"[:200])

    def _start(self, text: str, reference: str) -> Grade | Future[Grade]:
        found = extract(text)
        key = (found.answer, reference)
        try:
            decision = _decided.get(key) or decide(*key)
        except NeedsSymbols:
            return self._promised(key, found, text)
        return ask(text, reference) if self._asks(decision) else graded(decision, found)

    def grade(self, text: str, reference: Any) -> Grade:
        """As `start`, and waits."""
        grade = self.start(text, reference)
        return grade if isinstance(grade, Grade) else grade.result()

    def _asks(self, decision: Decision) -> bool:
        return self.opinion and (decision.verdict == "undecided" or decision.stage == "reading")

    def _promised(self, key: tuple[str, str], found: Extracted, text: str) -> Future[Grade]:
        promise: Future[Grade] = Future()

        def done(job: Future[Any]) -> None:
            decision = _decision(job, key)
            if self._asks(decision):
                ask(text, key[1]).add_done_callback(lambda job: _keep(promise, job.result()))
            else:
                _keep(promise, graded(decision, found))

        pool("symbolic").submit(*key).add_done_callback(done)
        return promise


def _keep(promise: Future[Grade], grade: Grade) -> None:
    if promise.set_running_or_notify_cancel():
        promise.set_result(grade)


def ask(text: str, reference: str) -> Future[Grade]:
    """math-verify's grade of a reply."""
    promise: Future[Grade] = Future()

    def done(job: Future[Any]) -> None:
        decision = _decision(job)
        _keep(promise, Grade(decision.verdict, stage="math-verify", detail=decision.detail))

    pool("opinion").submit(text[-_MAX_OPINION:], reference).add_done_callback(done)
    return promise


def graded(decision: Decision, found: Extracted) -> Grade:
    """The grade of a decision on what was found in a reply."""
    shown = found.answer if len(found.answer) <= 80 else found.answer[:77] + "..."
    detail = f"{decision.detail}; read {shown!r} by {found.rule}"
    return Grade(decision.verdict, stage=decision.stage, detail=detail)


def pool(stage: str) -> Pool:
    """The workers of a stage, one pool in a process: "symbolic" or "opinion"."""
    with _LOCK:
        return _pool(stage)


@functools.cache
def _pool(stage: str) -> Pool:
    return Pool(f"cookbook_plugin_math.{stage}:{stage}", timeout_s=_TIMEOUT_S[stage], memory_mb=_MEMORY_MB)


def is_correct(text: str, reference: str) -> bool:
    """Whether a reply is right; what is undecided isn't. From any thread, inside an event loop too."""
    return _default().grade(text, reference).verdict == "right"


def warm() -> None:
    """Starts the workers of the symbolic stage, so that the first grade needn't wait for them."""
    pool("symbolic").warm()


def awaitable(grade: Grade | Future[Grade]) -> Grade | Awaitable[Grade]:
    """For an event loop."""
    return grade if isinstance(grade, Grade) else asyncio.wrap_future(grade)


def require_math_verify() -> None:
    """Raises `ConfigError` where math-verify isn't installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ConfigError("math-verify isn't installed: run pip install 'cookbook-plugin-math[verify]'")


@functools.cache
def _default() -> Grading:
    return Grading()


_decided: dict[tuple[str, str], Decision] = {}


def _decision(job: Future[Any], key: tuple[str, str] = ("", "")) -> Decision:
    """What a worker decided; kept for later, when it is a verdict on a short answer."""
    problem = job.exception()
    if problem is not None:
        return Decision("undecided", "symbolic", str(problem))
    decision = Decision(*job.result())
    if decision.verdict != "undecided" and 0 < sum(map(len, key)) <= _SHORT:
        with _LOCK:
            if len(_decided) >= _CACHED:
                del _decided[next(iter(_decided))]
            _decided[key] = decision
    return decision
