"""L1 and L3 of a grader: what it says to replies that nobody would write, and to an author's own cases."""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
import time
from collections.abc import Iterable, Sequence
from typing import Any

from .. import registry
from ..errors import CookbookError
from ..types import Grade, Grader, Message
from .limits import TookTooLong, deadline
from .rules import Report

Case = tuple[Any, str, Any, str]
"""(prompt, a text or messages; the reply's text; the reference; "right", "wrong" or "undecided")."""

PATIENCE_S = 10.0
SLOW_S = 1.0
_FAULTS = (Exception, SystemExit, TookTooLong)
_PROMPT = "What is 40 + 2?"
_REFERENCES = ("42", 42)  # of which a grader that is given no cases should take one

NEVER_RIGHT = {
    "nothing": "",
    "white space": " \n\t\u00a0\u3000 ",
    "zero-width characters": "\u200b\u200d\u2060\ufeff",
    "garbage": "\x00\x01\x7f\ufffd\ufffe",
    "letters": "asdf qwer zxcv",
    "half a character": "\ud800",
    "100,000 letters": "x" * 100_000,
}
ANYTHING = {
    "100,000 digits": "7" * 100_000,
    "a large power": "9**2**25",
    "brackets, 10,000 deep": "(" * 10_000 + "1" + ")" * 10_000,
    "fractions, 2,000 deep": "\\frac{" * 2_000 + "1" + "}{2}" * 2_000,
    "open boxes": "\\boxed{" * 5_000,
    "tags": "<answer>" * 5_000,
    "digits of other scripts": "٤٢ ४२ 四十二 \U0001d7d2\U0001d7d0",
    "from right to left": "\u202e\u05d0\u05d1 42",
    "code": "__import__('os').system('true') or {}['a'] if x else [i for i in range(10**9)]",
    "JSON": '[[{"a": [1e999, NaN, null]}]]',
    "a template": "{{ 7 * 7 }} %s %n {0.__class__}",
}


def check_grader(grader: str | Grader, cases: Iterable[Case] = ()) -> Report:
    """Grades junk, and an author's cases.

    grader: an id in the registry, or a grader itself. Without cases the reference is "42", or 42; a grader
    that takes neither needs one case at least.
    """
    report = Report(f"grader {grader if isinstance(grader, str) else type(grader).__name__}")
    if isinstance(grader, str):
        try:
            grader = registry.find("grader", grader).load()()
        except (CookbookError, TypeError, ValueError) as error:
            report.find("L1.grader-builds", str(error))
            return report
    judge = _Judge(grader, report)  # type: ignore[arg-type]
    cases = list(cases)
    for case in cases:
        judge.holds(case)
    if report.failed and not cases:
        return report
    asked = [(prompt, reference) for prompt, _, reference, _ in cases] or judge.taken()
    if not asked:
        report.unchecked |= dict.fromkeys(_JUNK_RULES, "it takes no reference of 42; give it cases")
    for prompt, reference in asked[:3]:
        judge.junk(prompt, reference)
    if judge.seconds:
        report.facts["grade/s"] = round(max(judge.seconds), 4)
    return report


_JUNK_RULES = ("L3.grader-raises", "L3.grader-junk", "L3.grader-nan", "L3.grader-hangs")


class _Judge:
    """One grader, what was found of it, and how long each grade took."""

    def __init__(self, grader: Grader, report: Report) -> None:
        self.grader, self.report = grader, report
        self.seconds: list[float] = []
        self.awaited = False  # whether the last grade was

    def holds(self, case: Case) -> None:
        """Grades one case of the author's."""
        prompt, reply, reference, verdict = case
        grade = self.grade(prompt, reply, reference, f"{_short(reply)}, reference {_short(reference)}")
        if grade is not None and grade.verdict != verdict:
            told = f"{_short(reply)}, reference {_short(reference)}: {grade.verdict}, not {verdict}"
            self.report.find("L3.grader-verdict", f"{told}; {grade.detail}".rstrip("; "))

    def taken(self) -> list[tuple[Any, Any]]:
        """What to grade junk against, where the author says nothing."""
        for reference in _REFERENCES:
            try:
                with deadline(PATIENCE_S):
                    self._call(_PROMPT, "42", reference)
            except _FAULTS:
                continue  # it may well be made for others
            return [(_PROMPT, reference)]
        return []

    def junk(self, prompt: Any, reference: Any) -> None:
        """Grades what nobody would write."""
        said = prompt if isinstance(prompt, str) else str(prompt[-1].get("content"))
        for name, reply in {**NEVER_RIGHT, "the prompt": said, **ANYTHING}.items():
            grade = self.grade(prompt, reply, reference, f"{name}, reference {_short(reference)}")
            if grade is None or grade.verdict != "right" or name in ANYTHING:
                continue
            if reply.strip() != str(reference).strip():
                self.report.find("L3.grader-junk", f"{name}, {_short(reply)}, is right; {grade.detail}")

    def grade(self, prompt: Any, reply: str, reference: Any, what: str) -> Grade | None:
        """A grade, or None where there is none to look at."""
        try:
            grade, took_s = self._timed(prompt, reply, reference)
            if took_s > SLOW_S:  # or the machine had something else to do
                grade, took_s = self._timed(prompt, reply, reference)
        except TookTooLong as error:
            self.report.find("L3.grader-hangs", f"{what}: {error}")
            return None
        except (Exception, SystemExit) as error:  # somebody's code
            self.report.find("L3.grader-raises", f"{what}: {type(error).__name__}: {_short(error, 200)}")
            return None
        self.seconds.append(took_s)
        if took_s > SLOW_S and not self.awaited:  # then every episode waits for it
            self.report.find("L3.grader-slow", f"{what}: {took_s:.1f} s")
        if not isinstance(grade, Grade):
            self.report.find("L1.grader-type", f"{what}: {_short(grade)}, a {type(grade).__name__}")
            return None
        reward = grade.reward
        if reward is not None and not (isinstance(reward, numbers.Real) and math.isfinite(reward)):
            self.report.find("L3.grader-nan", f"{what}: the reward is {_short(reward)}")
        return grade

    def _timed(self, prompt: Any, reply: str, reference: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        with deadline(PATIENCE_S):
            grade = self._call(prompt, reply, reference)
        return grade, time.perf_counter() - began

    def _call(self, prompt: Any, reply: str, reference: Any) -> Any:
        asked: Sequence[Message] = (
            [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
        )

        async def call() -> Any:
            grade = self.grader.grade(asked, Message(role="assistant", content=reply), reference)
            self.awaited = inspect.isawaitable(grade)
            return await grade if inspect.isawaitable(grade) else grade

        return asyncio.run(call())


def _short(value: Any, most: int = 60) -> str:
    text = str(value) if isinstance(value, BaseException) else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
