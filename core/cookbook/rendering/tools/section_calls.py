"""Calls as sections of control tokens around a name (or an id) and JSON, the dialect of DeepSeek and Kimi."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..draft import Draft
from ..tokenizers import Tokenizer
from . import Unparsed, strict_json


@dataclass(frozen=True, slots=True)
class Section:
    """The control tokens around all calls of a reply, around one, and between its name and arguments."""

    begin: str
    end: str
    call: str
    separator: str
    end_call: str

    def write(self, out: Draft, calls: Sequence[tuple[str, str]], broken: Sequence[str]) -> None:
        """Each call's name, or id, and arguments; then what was meant as a call."""
        out.own(self.begin)
        for name, arguments in calls:
            out.own(self.call)
            out.text(name)
            out.own(self.separator)
            out.text(arguments)
            out.own(self.end_call)
        for text in broken:
            out.own(self.call)
            out.text(text)
            out.own(self.end_call)
        out.own(self.end)

    def read(self, tokenizer: Tokenizer, token_ids: list[int]) -> tuple[str, str] | Unparsed:
        """The name, or id, and the arguments of what stands within one call."""
        separator = tokenizer.control(self.separator)
        if separator not in token_ids:
            return Unparsed(tokenizer.decode(token_ids), f"no {self.separator} after the name")
        at = token_ids.index(separator)
        name, arguments = tokenizer.decode(token_ids[:at]), tokenizer.decode(token_ids[at + 1 :])
        if reason := not_an_object(arguments):
            return Unparsed(tokenizer.decode(token_ids), reason)
        return name, arguments


def not_an_object(arguments: str) -> str:
    """Why this text is no JSON object, or ""."""
    try:
        value = strict_json(arguments)
    except (ValueError, RecursionError) as e:
        return f"the arguments are no JSON: {e}"
    return "" if isinstance(value, dict) else "the arguments are no object"
