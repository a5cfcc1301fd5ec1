"""Rewards of what was replied, the same on both sides; the standard library alone, since both import it."""

from __future__ import annotations

import re

_INTEGER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,30})", re.ASCII)


def sum_is(text: str, reference: int) -> float:
    """math/integer's rule, by which math/arithmetic is graded."""
    answer = text.rpartition("=")[2].strip().removesuffix(".")
    return float(bool(_INTEGER.fullmatch(answer)) and int(answer.replace(",", "")) == reference)


def vowels(text: str, reference: object = None) -> float:
    """The share of vowels among the letters: it differs from reply to reply, so that all are trained on."""
    letters = [c for c in text.lower() if "a" <= c <= "z"]
    return sum(c in "aeiou" for c in letters) / max(1, len(letters))


REWARDS = {"sum_is": sum_is, "vowels": vowels}
