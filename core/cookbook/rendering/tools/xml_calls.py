"""Calls as XML-like tags, the dialect of Qwen3.5 (and Qwen3-Coder before it) and Nemotron 3:

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

Values aren't typed: text stands as it is, all else as JSON, or as Python prints it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..draft import Draft
from . import Call, Unparsed, schema_of, strict_json, to_json

TOOLS = "# Tools\n\nYou have access to the following functions:\n\n"
RULES = (
    "\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
    "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\n"
    "multiple lines\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n"
    "- Function calls MUST follow the specified format: an inner <function=...></function> block must be "
    "nested within <tool_call></tool_call> XML tags\n- Required parameters MUST be specified\n"
    "- You may provide optional reasoning for your function call in natural language BEFORE the function "
    "call, but NOT after\n- If there is no function call available, answer the question like normal with "
    "your current knowledge and do not tell the user about function calls\n</IMPORTANT>"
)
EXCEPTIONS = {
    "argument text": "arguments are values, each between tags, so the JSON text they were written in is lost",
    "tags in arguments": "nothing tells a closing tag within a text from one that ends it",
    "undeclared types": "text that looks like JSON is taken for JSON where no schema says that it is text",
}
"""What a format with such calls declares (`Renderer.exceptions`)."""
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\n?(.*)</function>\s*", re.DOTALL)
_OPEN, _CLOSE = "<parameter=", "</parameter>"
_PYTHON = {"True": "true", "False": "false", "None": "null"}
_JSON_TYPES = {
    type(None): {"null"},
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    list: {"array"},
    dict: {"object"},
}


def write(out: Draft, call: Call, json_values: bool) -> None:
    """json_values: true, false and null; else True, False and None. Raises `RendererError` for arguments
    that are no JSON object."""
    out.own("<tool_call>\n<function=")
    out.text(call.name)
    out.own(">\n")
    for key, value in call.values("a tool call").items():
        out.own("<parameter=")
        out.text(key)
        out.own(">\n")
        if isinstance(value, str):
            out.text(value)
        else:
            out.text(to_json(value) if json_values or isinstance(value, (dict, list)) else str(value))
        out.own("\n</parameter>\n")
    out.own("</function>\n</tool_call>")


def read(text: str, tools: Sequence[Mapping[str, Any]] | None = None) -> Call | Unparsed:
    """What stands between the tags. tools: what is declared, which says which values are text; without it
    what looks like JSON is taken for JSON."""
    function = _FUNCTION.fullmatch(text)
    if function is None:
        return Unparsed(text, "no <function=NAME>...</function>")
    name, body = function.groups()
    parameters, rest = _parameters(body)
    if rest.strip():
        return Unparsed(text, f"beside the parameters stands {rest.strip()[:60]!r}")
    types = _types(name, tools)
    written = [(key, _value(value, types.get(key, set()))) for key, value in parameters]
    return Call(name, "{" + ", ".join([f"{to_json(key)}: {value}" for key, value in written]) + "}")


def _parameters(body: str) -> tuple[list[tuple[str, str]], str]:
    """Each parameter's key and text, and what else there is."""
    found: list[tuple[str, str]] = []
    rest, at = "", 0
    while (start := body.find(_OPEN, at)) >= 0:
        key_end, end = body.find(">", start), body.find(_CLOSE, start)
        key = body[start + len(_OPEN) : key_end]
        if not 0 <= key_end < end or "\n" in key:
            break
        found.append((key, body[key_end + 1 : end].removeprefix("\n").removesuffix("\n")))
        rest, at = rest + body[at:start], end + len(_CLOSE)
    return found, rest + body[at:]


def _types(name: str, tools: Sequence[Mapping[str, Any]] | None) -> dict[str, set[str]]:
    """For each parameter the types that its schema allows."""
    for tool in tools or ():
        function = schema_of(schema_of(tool).get("function", tool))
        if function.get("name") == name:
            properties = schema_of(schema_of(function.get("parameters")).get("properties"))
            return {key: _allowed(schema) for key, schema in properties.items()}
    return {}


def _allowed(schema: Any) -> set[str]:
    """The types that a schema allows; empty, where it doesn't say."""
    schema = schema_of(schema)
    types = schema.get("type")
    allowed = {types} if isinstance(types, str) else set(types) if isinstance(types, list) else set()
    for union in ("anyOf", "oneOf"):
        for option in schema.get(union) or ():
            allowed |= _allowed(option)
    if not allowed:
        values = [schema["const"]] if "const" in schema else schema.get("enum") or ()
        for value in values:
            allowed |= {"string"} if isinstance(value, str) else _JSON_TYPES.get(value.__class__, set())
    return allowed


def _value(text: str, allowed: set[str]) -> str:
    """The value as JSON; a number, an object or an array as it is written."""
    written = _PYTHON.get(text, text.strip())
    try:
        value = strict_json(written)
    except (ValueError, RecursionError):
        return to_json(text)
    types = {"string"} if isinstance(value, str) else _JSON_TYPES[value.__class__]
    # a quoted text is a text with quotes
    return (
        to_json(text) if "string" in types or ("string" in allowed and types.isdisjoint(allowed)) else written
    )
