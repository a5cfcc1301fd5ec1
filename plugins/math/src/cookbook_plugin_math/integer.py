"""Grades a reply that should be one integer, by parsing it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import chz

from cookbook import Grade, GraderConfig, Message
from cookbook.errors import EnvError

# ASCII digits only, and no more of them than any sum here can have: int() takes quadratic time.
_INTEGER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,30})", re.ASCII)


@chz.chz(typecheck=True)
class Integer(GraderConfig):
    """Right when the answer equals the reference.

    The answer is the whole reply, or what follows its last "=", stripped of white space and of one
    full stop at the end; it must be an integer, thousands separated by commas if at all. Anything else
    ("it is 42", "42 or 43", "4 2") is wrong, not undecided: the model was asked for a number.
    """

    def grade(self, prompt: Sequence[Message], reply: Message, reference: int | str) -> Grade:
        """reference: an integer, or a text that is one; raises `EnvError` for another text."""
        expected = parse(reference) if isinstance(reference, str) else reference
        if expected is None:
            raise EnvError(f"math/integer can't compare with {reference!r}, which is no integer")
        answer = parse(reply["content"])
        if answer is None:
            return Grade(False, detail="the reply is not one integer")
        return Grade(answer == expected, detail=f"read {answer}")


def parse(text: str) -> int | None:
    """The reply's integer by the rule above, or None. Never raises."""
    answer = text.rpartition("=")[2].strip().removesuffix(".")
    return int(answer.replace(",", "")) if _INTEGER.fullmatch(answer) else None
