"""Calls as JSON between tags, the dialect of Qwen3 (and Hermes before it):
<tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call>."""

from __future__ import annotations

import json
import re

from ..draft import Draft
from . import Call, Unparsed, strict_json

_ARGUMENTS = re.compile(r'"arguments"\s*:\s*')


def write(out: Draft, call: Call) -> None:
    out.own('<tool_call>\n{"name": "')
    out.text(call.name)
    out.own('", "arguments": ')
    out.text(call.arguments)
    out.own("}\n</tool_call>")


def read(text: str) -> Call | Unparsed:
    """What stands between the tags. The arguments are kept as they are written."""
    try:
        call = strict_json(text)
    except (ValueError, RecursionError) as e:
        return Unparsed(text, f"no JSON: {e}")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return Unparsed(text, 'no object with a "name"')
    if not isinstance(call.get("arguments", {}), dict):
        return Unparsed(text, '"arguments" is no object')
    return Call(call["name"], _written(text, call))


def _written(text: str, call: dict) -> str:
    """The text of the arguments: the one place where decoding from it gives them and the object ends."""
    decoder = json.JSONDecoder()
    for match in _ARGUMENTS.finditer(text):
        try:
            value, end = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            continue  # the words stood within a string
        if value == call.get("arguments") and text[end:].strip()[:1] in ("}", ","):
            return text[match.end() : end]
    return json.dumps(call.get("arguments", {}), ensure_ascii=False)
