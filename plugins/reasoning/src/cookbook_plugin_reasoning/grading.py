"""From a reply to a grade."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from cookbook import Grade, Message

from .families import Family, quiet
from .scorers import FORMS, SCORERS

MAX_ANSWER = 10_000  # characters; no family's answers come near
FLOOR = 0.1  # what reasoning-gym gives, at most, for an answer that only has the form of one


class GymGrader:
    """Right when the family's scorer gives the answer 1.

    The reward is the score; FLOOR and less, which the library gives for any answer of the right form, is 0.
    An answer that a scorer can't take is wrong, unless it can't take the reference either: then the verdict
    is undecided. Nothing that an answer says is run.
    """

    def __init__(self, family: Family, answer: str, partial: bool) -> None:
        self._family, self._answer, self._partial = family, answer, partial

    def grade(self, prompt: Sequence[Message], reply: Message, reference: dict[str, Any]) -> Grade:
        answer = reply["content"].strip() if self._answer == "reply" else tagged(reply["content"])
        if not answer:
            missing = "an empty reply" if self._answer == "reply" else "no <answer>...</answer>"
            return Grade(False, stage="answer", detail=missing)
        if len(answer) > MAX_ANSWER:
            return Grade(False, stage="answer", detail=f"the answer has more than {MAX_ANSWER} characters")
        form, longest = FORMS.get(self._family.name, (None, MAX_ANSWER))
        if len(answer) > longest or (form and not form.fullmatch(answer)):
            return Grade(False, stage="form", detail="the answer isn't of this family's form")
        score, problem = self._score(answer, reference)
        if problem:
            gold = reference["answer"]
            if isinstance(gold, str) and self._score(gold, reference)[1]:
                return Grade(
                    "undecided", stage="score", detail=f"not even the reference is scored: {problem}"
                )
            return Grade(False, stage="score", detail=problem)
        reward = score if score == 1 or (self._partial and score > FLOOR) else 0.0
        return Grade(score == 1, reward, stage="score", detail=f"scored {score:.3g}")

    def _score(self, answer: str, entry: dict[str, Any]) -> tuple[float, str]:
        """A score from 0 to 1 and "", or 0 and why there is none."""
        entry = copy.deepcopy(entry)  # some scorers write into it
        try:
            with quiet(0):
                own = SCORERS.get(self._family.name)
                scorer = own or self._family.dataset.score_answer
                score = float(scorer(answer, entry))
        except (Exception, SystemExit) as e:
            return 0.0, f"the scorer failed: {type(e).__name__}"
        if not math.isfinite(score) or not 0 <= score <= 1:
            return 0.0, f"the scorer gave {score}, which is no score from 0 to 1"
        return score, ""


def tagged(text: str) -> str:
    """What the last <answer>...</answer> holds, stripped; "" where there is none."""
    before, closing, _ = text.rpartition("</answer>")
    _, opening, answer = before.rpartition("<answer>")
    return answer.strip() if closing and opening else ""
