"""What sampled tokens say, and reading them while they are sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..types import Message
from .tokenizers import Tokenizer

Region = Literal["reasoning", "content", "call"]
Step = Callable[[int], Region | None]
"""Takes a reply's ids one by one: the region that an id's text belongs to; None for the format's own."""


Termination = Literal["clean", "truncated", "malformed"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What sampled tokens say.

    stopped: they hold the format's stop, so nothing was cut off. termination: "clean", a well-formed reply
    that ends with its stop; "truncated", no stop; "malformed", a stop, and something that this format
    doesn't allow, which `problem` names: tokens after the stop, reasoning that isn't closed, a broken call.
    """

    message: Message
    stopped: bool
    problem: str = ""

    @property
    def termination(self) -> Termination:
        return "truncated" if not self.stopped else "malformed" if self.problem else "clean"


class Delta(NamedTuple):
    """More text of a reply: of its reasoning, its content, or a call as the model writes it."""

    region: Region
    text: str


class ResponseStream:
    """The text of a reply as its tokens come, for showing; `finish` gives what `parse_response` gives of all.

    A character whose bytes aren't all there is held back, and so are newlines until text follows them:
    between regions they are the format's. What begins like a stop that is text is held back too.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        step: Step,
        stops: Sequence[int | str],
        parse: Callable[[list[int]], Parsed],
    ) -> None:
        self._tokenizer, self._step, self._parse = tokenizer, step, parse
        self._all: list[int] = []
        self._stops = [stop for stop in stops if isinstance(stop, str)]
        self._ids = [stop for stop in stops if isinstance(stop, int)]
        self._pending: list[int] = []
        self._held = ""
        self._region: Region | None = None
        self._begun = self._over = False

    def feed(self, token_ids: Sequence[int]) -> list[Delta]:
        """The text that these tokens add; nothing after a stop."""
        deltas: list[Delta] = []
        self._all += token_ids
        for id in token_ids:
            self._over = self._over or id in self._ids
            if self._over:
                break
            region = self._step(id)
            if region != self._region:
                self._pending, self._held, self._begun = [], "", False
                self._region = region
            if region is not None:
                self._pending.append(id)
                text = self._more()
                if text:
                    deltas.append(Delta(region, text))
        return _joined(deltas)

    def finish(self) -> Parsed:
        """The whole reply."""
        return self._parse(self._all)

    def _more(self) -> str:
        text = self._tokenizer.decode(self._pending)
        if text.endswith("\ufffd") and len(self._pending) < 4:  # a character has four bytes at most
            return ""
        self._pending = []
        text = self._held + text
        if not self._begun:
            text = text.lstrip("\n")
        for stop in self._stops:
            text, found, _ = text.partition(stop)
            self._over = self._over or bool(found)
        keep = self._kept(text)
        self._held = "" if self._over else text[keep:]
        self._begun = self._begun or keep > 0
        return text[:keep]

    def _kept(self, text: str) -> int:
        """How much of the text is certain to be the reply's."""
        keep = len(text.rstrip("\n"))
        for stop in self._stops:
            starts = [n for n in range(1, len(stop)) if text.endswith(stop[:n])]
            keep = min(keep, len(text) - max(starts, default=0))
        return keep


def _joined(deltas: list[Delta]) -> list[Delta]:
    joined: list[Delta] = []
    for delta in deltas:
        if joined and joined[-1].region == delta.region:
            joined[-1] = Delta(delta.region, joined[-1].text + delta.text)
        else:
            joined.append(delta)
    return joined
