"""Calls as JSON between tags, the dialect of Qwen3 (and Hermes before it):
<tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call>."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..draft import Draft
from . import Call, Unparsed, openai_tool, strict_json, to_json

_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>",
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
    "<args-json-object>}\n</tool_call>",
)
_ARGUMENTS = re.compile(r'"arguments"\s*:\s*')
_CALL = re.compile(r"<tool_call>(.*?)(</tool_call>|\Z)", re.DOTALL)


def declare(out: Draft, tools: Sequence[Mapping[str, Any]]) -> None:
    """What the system message says of the tools."""
    out.own(_TOOLS[0])
    for tool in tools:
        out.own("\n")
        out.text(to_json(openai_tool(tool)))
    out.own(_TOOLS[1])


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


def read_all(text: str) -> tuple[str, list[Call], list[Unparsed]]:
    """The text outside of calls, the calls, and what was meant as one, of a reply whose tags are text: a call
    ends at the first tag that closes one."""
    found = list(_CALL.finditer(text))
    if not found:
        return text, [], []
    content = text[: found[0].start()].removesuffix("\n")
    ends = [match.start() for match in found[1:]] + [len(text)]
    between = [text[match.end() : end] for match, end in zip(found, ends, strict=True)]
    content += "".join(each for each in between if each.strip())
    read_N = [read(match[1]) if match[2] else Unparsed(match[1], "the call isn't closed") for match in found]
    return (
        content,
        [call for call in read_N if isinstance(call, Call)],
        [call for call in read_N if isinstance(call, Unparsed)],
    )


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
