"""A message taken apart: what a format needs to know of it, in one form for all the forms people write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RendererError
from ..types import Message
from .images import Image, image_of
from .tools import Call, call_of

_FORM = "{'role': ..., 'content': text or parts}"
_PARTS = (
    "{'type': 'text', 'text': ...}, {'type': 'thinking', 'thinking': ...} or {'type': 'image', 'image': ...}"
)


@dataclass(slots=True)
class Plain:
    """One message.

    parts: its text and images in order; the texts of an assistant's message are one. thinking: an
    assistant's reasoning; None where the message says nothing of it, which isn't the same as "".
    call_id, name: of the call that a tool's message answers; a name may stand on any message. broken: what a
    reply meant as calls, and no format could read.
    """

    role: str
    parts: list[str | Image] = field(default_factory=list)
    thinking: str | None = None
    calls: list[Call] = field(default_factory=list)
    call_id: str | None = None
    name: str | None = None
    trainable: bool = False
    broken: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text without the images."""
        return "".join([part for part in self.parts if isinstance(part, str)])


def plain(message: Message, where: str = "the message") -> Plain:
    """Takes a message apart. Raises `RendererError` with one line for what is no message."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RendererError(f"{where} is {_shown(message)}, not {_FORM}")
    fields: Mapping[str, Any] = message
    for name in ("name", "tool_call_id", "reasoning_content"):
        if not isinstance(fields.get(name), (str, type(None))):
            raise RendererError(f"{where} has the {name} {_shown(fields.get(name))}, which is no text")
    calls = [call_of(call, where) for call in _list(fields, "tool_calls", where)]
    broken = [str(each.get("text", "")) for each in _list(fields, "unparsed_tool_calls", where)]
    if calls and fields["role"] != "assistant":
        raise RendererError(f"{where} has tool calls, and its role is {fields['role']!r}, not 'assistant'")
    content = fields.get("content")
    if isinstance(content, str):
        parts, thoughts = _parts([{"type": "text", "text": content}], where)
    elif content is None and (calls or broken or fields.get("reasoning_content") is not None):
        parts, thoughts = [], []
    elif isinstance(content, Sequence):
        parts, thoughts = _parts(content, where)
    else:
        raise RendererError(f"{where} is {_shown(message)}, not {_FORM}")
    reasoning = fields.get("reasoning_content")
    if isinstance(reasoning, str):
        thoughts = [reasoning, *thoughts]
    return Plain(
        fields["role"],
        parts,
        "".join(thoughts) if thoughts else None,
        calls,
        fields.get("tool_call_id"),
        fields.get("name"),
        bool(fields.get("trainable")),
        broken,
    )


def _list(fields: Mapping[str, Any], name: str, where: str) -> Sequence[Any]:
    value = fields.get(name) or ()
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise RendererError(f"{where} has the {name} {_shown(value)}, which is no list")
    return value


def only_text(message: Plain, format: str, *, calls: bool = False) -> str:
    """The text of a message, for a format that has no form for images, nor for calls unless `calls`.

    Raises `RendererError` where there are some.
    """
    if message.calls and not calls:
        raise RendererError(f"{format} has no form for tool calls; choose another renderer=...")
    if any(isinstance(part, Image) for part in message.parts):
        raise RendererError(f"{format} has no form for images; choose another renderer=...")
    return message.text


def _parts(content: Sequence[Any], where: str) -> tuple[list[str | Image], list[str]]:
    """What a list of parts says, and what it thinks. Neighbouring texts become one."""
    parts: list[str | Image] = []
    thoughts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            if parts and isinstance(parts[-1], str):
                parts[-1] += part["text"]
            elif part["text"]:
                parts.append(part["text"])
        elif kind == "thinking" and isinstance(part.get("thinking"), str):
            thoughts.append(part["thinking"])
        elif kind in ("image", "image_url"):
            parts.append(image_of(part, where))
        else:
            raise RendererError(f"{where} has the part {_shown(part)}, which is none of {_PARTS}")
    return parts, thoughts


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def last_query(texts: Sequence[tuple[str, str]], parity: bool) -> int | None:
    """Of messages, role and text each, the place of the last user's, after which reasoning stands in the
    formats of Qwen; None where there is none. Their templates, so `parity`, take a tool's response for no
    user's."""
    for i in range(len(texts) - 1, -1, -1):
        role, text = texts[i]
        response = parity and text.startswith("<tool_response>") and text.endswith("</tool_response>")
        if role == "user" and not response:
            return i
    return None


def inline_thinking(message: Plain, parity: bool) -> tuple[str | None, str]:
    """An assistant's reasoning and its text, also where a text begins with "<think>...</think>", as data sets
    have it. The templates of Qwen, so `parity`, look for "</think>" anywhere."""
    text = message.text
    if message.thinking is not None or "</think>" not in text:
        return message.thinking, text
    if not (parity or text.lstrip().startswith("<think>")):
        return None, text
    thinking = text.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    return thinking, text.split("</think>")[-1].lstrip("\n")
