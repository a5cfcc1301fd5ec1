r"""A grader's reward, less what a reply loses that has no \boxed{...}."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

from cookbook import Grade, Message

from .extraction import boxed


@dataclasses.dataclass(frozen=True)
class InForm:
    """Grades as another grader does; the reward of a reply out of form is lower by `loses`.

    grader: a `cookbook.Grader`. The verdict is its own; what is undecided has no reward to lose from.
    """

    grader: Any
    loses: float

    async def grade(self, prompt: Sequence[Message], reply: Message, reference: Any) -> Grade:
        grade = self.grader.grade(prompt, reply, reference)
        if inspect.isawaitable(grade):
            grade = await grade
        if not isinstance(grade, Grade) or grade.reward is None or boxed(reply["content"]):
            return grade
        detail = "; ".join(part for part in (grade.detail, r"no \boxed{...}") if part)
        return dataclasses.replace(grade, reward=grade.reward - self.loses, detail=detail)
