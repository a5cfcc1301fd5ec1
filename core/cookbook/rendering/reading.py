"""Reading a reply by its token ids: reasoning and calls stand between control tokens, so text that only looks
like them is text."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..types import Message
from .base import Renderer, Tools
from .draft import Draft
from .messages import Plain
from .stream import Region, Step
from .tokenizers import Tokenizer
from .tools import Call, Unparsed

ReadCall = Callable[[list[int]], Call | Unparsed]
"""What the ids between the tags of a call say."""


@dataclass(frozen=True, slots=True)
class Tags:
    """Ids of the control tokens around reasoning, around a call, and around all calls of a reply; None where
    the format has none."""

    think: int | None = None
    end_think: int | None = None
    call: int | None = None
    end_call: int | None = None
    calls: int | None = None
    end_calls: int | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer, *names: str) -> Tags:
        """By names in the order of the fields. Raises `RendererError` where the vocabulary lacks one."""
        return cls(*[tokenizer.control(name) for name in names])


@dataclass(frozen=True, slots=True)
class Framing:
    """The format's own white space around the parts of a reply, which no part contains."""

    after_think: str = "\n"
    before_end_think: str = "\n"
    after_end_think: str = "\n\n"
    before_call: str = "\n"


class Tagged(Renderer):
    """A format in whose replies reasoning comes first, then text, then calls, told apart by tags.

    A format sets `_tags`, `_framing`, and `_header`, the id that every reply's header has.
    """

    _tags: Tags
    _framing = Framing()
    _weighs_replies = True
    _header: int | None = None

    @abc.abstractmethod
    def _read_call(self, token_ids: list[int], tools: Tools) -> Call | Unparsed:
        """What the ids between the tags of a call say. Never raises."""

    def _read(
        self, token_ids: list[int], prompt_ids: Sequence[int], stop: int | None, tools: Tools
    ) -> tuple[Message, str]:
        tags = self._tags
        around = (tags.calls, tags.end_calls)
        open = sum((id == tags.calls) - (id == tags.end_calls) for id in token_ids)
        ids = [id for id in [*self._begun_call(prompt_ids), *token_ids] if id not in around]
        inside = self._in_reasoning(prompt_ids)
        reasoning, rest, problem = _reasoning(self.tokenizer, tags, self._framing, ids, inside)
        content, calls, unparsed = _calls(
            self.tokenizer, tags, self._framing, lambda ids: self._read_call(ids, tools), rest
        )
        problem = problem or (unparsed[0].reason if unparsed else "the calls aren't closed" if open else "")
        return reply(content, reasoning, calls, unparsed), problem

    def _in_reasoning(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt opened the reasoning and didn't close it."""
        for id in reversed(prompt_ids):
            if id == self._tags.think:
                return True
            if id in (self._tags.end_think, self._header):
                return False
        return False

    def _begun_call(self, prompt_ids: Sequence[int]) -> list[int]:
        """What a prompt has of a call that it opened and didn't close."""
        call, closed = self._tags.call, (self._tags.end_call, self._header)
        last = next((id for id in reversed(prompt_ids) if id == call or id in closed), None)
        return [call, *after_last(prompt_ids, call)] if call is not None and last == call else []

    def _steps(self, prompt_ids: Sequence[int]) -> Step:
        tags = self._tags
        region: Region = "reasoning" if self._in_reasoning(prompt_ids) else "content"
        before: list[int] | None = [] if region == "content" else None  # what stood before any tag

        def step(id: int) -> Region | None:
            nonlocal region, before
            opens = before is not None and id == tags.think and not self.tokenizer.decode(before).strip()
            if opens or (id == tags.end_think and region == "reasoning"):
                region, before = "reasoning" if opens else "content", None
                return None
            if region != "reasoning" and id in (tags.call, tags.end_call, tags.calls, tags.end_calls):
                region, before = "call" if id == tags.call else "content", None
                return None
            before = [*before, id] if before is not None and len(before) < 8 else None
            return region

        return step


def write_broken(out: Draft, message: Plain, between: str) -> None:
    """What a reply meant as calls, between the tags of a call, as it was said."""
    for text in message.broken:
        out.own(f"{between}<tool_call>")
        out.text(text)
        out.own("</tool_call>")
        between = "\n"


def after_last(token_ids: Sequence[int], id: int | None) -> list[int]:
    """The ids after the last such id; all, where there is none."""
    ids = list(token_ids)
    return ids[len(ids) - ids[::-1].index(id) :] if id in ids else ids


def reply(
    content: str, reasoning: str = "", calls: Sequence[Call] = (), unparsed: Sequence[Unparsed] = ()
) -> Message:
    """An assistant's message of these parts, those that are empty left out."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [call.message() for call in calls]
    if unparsed:
        message["unparsed_tool_calls"] = [{"text": each.text, "reason": each.reason} for each in unparsed]
    return message  # type: ignore[return-value]


def _reasoning(
    tokenizer: Tokenizer, tags: Tags, framing: Framing, ids: list[int], inside: bool
) -> tuple[str, list[int], str]:
    """The reasoning, the ids after it, and what is wrong. It begins the reply, or a prompt began it."""
    start = 0
    if not inside:
        if tags.think not in ids:
            return "", ids, ""
        start = ids.index(tags.think)
        if tokenizer.decode(ids[:start]).strip():
            return "", ids, ""  # a tag in the midst of an answer is the answer's
        start += 1
    end = ids.index(tags.end_think, start) if tags.end_think in ids[start:] else len(ids)
    text = tokenizer.decode(ids[start:end])
    if not inside:
        text = text.removeprefix(framing.after_think)
    if end == len(ids):
        return text, [], "the reasoning isn't closed"
    rest = ids[end + 1 :]
    return text.removesuffix(framing.before_end_think), _without(tokenizer, rest, framing.after_end_think), ""


def _without(tokenizer: Tokenizer, ids: list[int], prefix: str) -> list[int]:
    """The ids less those that spell the prefix, of a token that reaches over its end what remains; all, where
    it isn't there."""
    text = ""
    for n, id in enumerate(ids[: len(prefix)], 1):
        text += tokenizer.decode([id])
        if text.startswith(prefix):
            return [*tokenizer.encode(text[len(prefix) :]), *ids[n:]]
    return ids


def _calls(
    tokenizer: Tokenizer,
    tags: Tags,
    framing: Framing,
    read_call: ReadCall,
    ids: list[int],
) -> tuple[str, list[Call], list[Unparsed]]:
    """The text outside of calls, the calls, and what was meant as one."""
    starts = [i for i, id in enumerate(ids) if id == tags.call]
    content = tokenizer.decode(ids[: starts[0]] if starts else ids)
    calls: list[Call] = []
    unparsed: list[Unparsed] = []
    if starts:
        content = content.removesuffix(framing.before_call)
    for at, limit in itertools.pairwise([*starts, len(ids)]):
        call, end = _one_call(tokenizer, tags, read_call, ids, (at + 1, limit))
        calls += [call] if isinstance(call, Call) else []
        unparsed += [call] if isinstance(call, Unparsed) else []
        between = tokenizer.decode(ids[end:limit])
        content += between if between.strip() else ""
    return content, calls, unparsed


_TRIED = 8


def _one_call(
    tokenizer: Tokenizer,
    tags: Tags,
    read_call: ReadCall,
    ids: list[int],
    span: tuple[int, int],
) -> tuple[Call | Unparsed, int]:
    """The call within the span and where it ends: at the first closing tag up to which it is well-formed, so
    that a tag within a JSON string doesn't end it; but for so many tags only, since each is a whole try."""
    start, limit = span
    ends = [i for i in range(start, limit) if ids[i] == tags.end_call]
    if not ends:
        return Unparsed(tokenizer.decode(ids[start:limit]), "the call isn't closed"), limit
    first = read_call(ids[start : ends[0]])
    for end in ends[1:_TRIED] if isinstance(first, Unparsed) else ():
        call = read_call(ids[start:end])
        if isinstance(call, Call):
            return call, end + 1
    return first, ends[0] + 1
