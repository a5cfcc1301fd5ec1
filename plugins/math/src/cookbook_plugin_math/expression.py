"""Reads an arithmetic expression over integers, and computes it exactly. Nothing is run."""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST = 200  # characters
_DEEPEST = 20  # brackets within brackets
_TOKEN = re.compile(r"\s*(?:(0|[1-9][0-9]{0,5})(?![0-9])|([-+*/()])|(\\[a-z]+|[{}\u00d7\u00f7\u00b7\u2212]))")
_SAME = {"\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-"}  # as they are printed
_SAME |= {"\\times": "*", "\\cdot": "*", "\\div": "/"}
_NOTHING = {"\\left", "\\right"}  # they only size the bracket that follows


class ExpressionError(ValueError):
    """The text isn't one expression; its own text says why."""


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    r"""(value, the numbers in it) of integers, + - * / and brackets; \times, \div, \cdot, \frac too.

    There is no sign before a number, and no multiplication without its sign. Raises `ExpressionError` for
    anything else, for a division by zero, and for what is longer than `LONGEST`.
    """
    if len(text) > LONGEST:
        raise ExpressionError(f"longer than {LONGEST} characters")
    reader = _Reader(_tokens(text))
    value = reader.sum()
    if reader.next is not None:
        raise ExpressionError(f"unexpected {reader.next!r}")
    return value, reader.numbers


def _tokens(text: str) -> list[str]:
    tokens, at, text = [], 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError(f"unexpected {text[at:].lstrip()[:1]!r}")
        token, at = match[match.lastindex or 0], match.end()
        if token not in _NOTHING:
            tokens.append(_SAME.get(token, token))
    return tokens


class _Reader:
    """Recursive descent: a sum of products of atoms."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._at, self._depth = tokens, 0, 0
        self.numbers: list[int] = []

    @property
    def next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def take(self) -> str:
        token = self.next
        if token is None:
            raise ExpressionError("it breaks off")
        self._at += 1
        return token

    def expect(self, token: str) -> None:
        found = self.take()
        if found != token:
            raise ExpressionError(f"{token!r} expected, not {found!r}")

    def sum(self) -> Fraction:
        value = self.product()
        while self.next in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Fraction:
        value = self.atom()
        while self.next in ("*", "/"):
            value = value * self.atom() if self.take() == "*" else _divided(value, self.atom())
        return value

    def atom(self) -> Fraction:
        token = self.take()
        if token.isdecimal():
            self.numbers.append(int(token))
            return Fraction(int(token))
        if token == "(":
            return self.within(")")
        if token in ("\\frac", "\\dfrac", "\\tfrac"):
            self.expect("{")
            above = self.within("}")
            self.expect("{")
            return _divided(above, self.within("}"))
        raise ExpressionError(f"unexpected {token!r}")

    def within(self, closing: str) -> Fraction:
        """A sum up to its closing bracket, whose opening one was taken."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ExpressionError(f"more than {_DEEPEST} brackets within each other")
        value = self.sum()
        self.expect(closing)
        self._depth -= 1
        return value


def _divided(above: Fraction, below: Fraction) -> Fraction:
    if not below:
        raise ExpressionError("it divides by zero")
    return above / below
