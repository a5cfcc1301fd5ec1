"""Tools: how they are declared to a model, how it calls them, and how a call is read. A dialect a module;
what all of them share stands here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import RendererError


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool. arguments: JSON text, as the model wrote it."""

    name: str
    arguments: str
    id: str | None = None

    def values(self, where: str) -> dict[str, Any]:
        """The arguments as an object. Raises `RendererError` where they are none."""
        try:
            values = json.loads(self.arguments)
        except (ValueError, RecursionError) as e:
            raise RendererError(f"{where}: the arguments of {self.name!r} are no JSON: {e}") from None
        if not isinstance(values, dict):
            raise RendererError(f"{where}: the arguments of {self.name!r} are no JSON object")
        return values

    def message(self) -> dict[str, Any]:
        """As it stands in a message's `tool_calls`."""
        call = {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}
        return call if self.id is None else {"id": self.id, **call}


@dataclass(frozen=True, slots=True)
class Unparsed:
    """What was meant as a call and isn't one. text: as the model wrote it; reason: what is wrong."""

    text: str
    reason: str


def to_json(value: Any) -> str:
    """JSON as chat templates write it: `tojson` of transformers, which keeps letters as they are."""
    return json.dumps(value, ensure_ascii=False)


def strict_json(text: str) -> Any:
    """`json.loads` without NaN and Infinity, which are no JSON. Raises ValueError, RecursionError."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def call_of(call: Any, where: str) -> Call:
    """A call in OpenAI's form, {"id", "function": {"name", "arguments"}}, or flat; arguments: text or object.

    Raises `RendererError` with one line for what is none.
    """
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RendererError(
            f"{where} has the tool call {call!r}, not {{'id': ..., 'function': {{'name': ..., "
            "'arguments': JSON}}"
        )
    arguments, id = function.get("arguments"), call.get("id")
    try:
        arguments = (
            arguments if isinstance(arguments, str) else to_json({} if arguments is None else arguments)
        )
    except (TypeError, ValueError) as e:
        raise RendererError(f"{where} has a call of {function['name']!r} with no JSON: {e}") from None
    if not isinstance(id, (str, type(None))):
        raise RendererError(
            f"{where} has a call of {function['name']!r} with the id {id!r}, which is no text"
        )
    return Call(function["name"], arguments if arguments.strip() else "{}", id)


def function_of(tool: Any) -> dict[str, Any]:
    """A tool's bare declaration, {"name", "description", "parameters"}, also from OpenAI's wrapping; what is
    None left out. Raises `RendererError` with one line for what is none."""
    function = _function(tool)
    return {key: value for key, value in function.items() if value is not None}


def openai_tool(tool: Any) -> dict[str, Any]:
    """A tool's declaration in OpenAI's wrapping."""
    return {"type": "function", "function": _function(tool)}


def schema_of(schema: Any) -> Mapping[str, Any]:
    """A JSON schema that is an object; true, false and what is none say nothing."""
    return schema if isinstance(schema, Mapping) else {}


def _function(tool: Any) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RendererError(
            f"the tool {tool!r} is not {{'name': ..., 'description': ..., 'parameters': schema}}"
        )
    if not isinstance(function.get("description"), (str, type(None))):
        raise RendererError(f"the tool {function['name']!r} has a description that is no text")
    return dict(function)
