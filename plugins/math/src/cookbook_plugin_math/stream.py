"""The tokens of an answer, one after the other."""

from __future__ import annotations

from .errors import Unreadable
from .lexing import Token

END: Token = ("end", "")


class Stream:
    """`token` is the next one, `sign_here` its text where it is an operator or a bracket, else ""."""

    def __init__(self, found: tuple[Token, ...]) -> None:
        self.found = found
        self.at = 0
        self.token: Token = found[0] if found else END
        self.sign_here = self.token[1] if self.token[0] == "op" else ""

    def advance(self) -> Token:
        token = self.token
        self.at += 1
        self.token = following = self.found[self.at] if self.at < len(self.found) else END
        self.sign_here = following[1] if following[0] == "op" else ""
        return token

    def peek(self, ahead: int = 1) -> Token:
        at = self.at + ahead
        return self.found[at] if at < len(self.found) else END

    def sees(self, *signs: str) -> bool:
        return self.sign_here in signs

    def expect(self, *signs: str) -> str:
        if not self.sees(*signs):
            raise Unreadable(f"{signs[0]!r} is missing before {self.token[1] or 'the end'!r}")
        return self.advance()[1]
