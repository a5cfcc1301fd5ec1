"""Tools declared as TypeScript types, the dialect of Kimi K2.5 and of gpt-oss."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from . import function_of, schema_of, to_json

_NAMES = {"integer": "number", "number": "number", "boolean": "boolean", "string": "string", "null": "null"}


def kimi(tools: Sequence[Mapping[str, Any]]) -> str:
    """Kimi's form: keys sorted, what is required first, comments above, two spaces a level."""
    lines = ["# Tools", "", "## functions", "namespace functions {"]
    for tool in tools:
        function = function_of(tool)
        lines += [f"// {line}" for line in (function.get("description") or "").split("\n") if line]
        lines.append(f"type {function['name']} = (_: {_type(function.get('parameters') or {}, '')}) => any;")
    return "\n".join([*lines, "}", ""])


def _type(schema: Any, indent: str) -> str:
    schema = schema_of(schema)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join([_type(option, indent) for option in schema[union]])
    if "enum" in schema:
        return " | ".join([to_json(value) for value in schema["enum"]])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join([_type({**schema, "type": each}, indent) for each in kind])
    if kind == "array":
        return f"Array<{_type(schema.get('items'), indent)}>"
    if kind == "object" or "properties" in schema:
        return _object(schema, indent)
    return _NAMES.get(kind or "", "any")


def _object(schema: Mapping[str, Any], indent: str) -> str:
    properties, required = schema_of(schema.get("properties")), schema.get("required") or ()
    inner = f"{indent}  "
    members: list[str] = []
    for name in sorted(properties, key=lambda name: (name not in required, name)):
        field = properties[name]
        comment = "".join([f"{inner}// {line}\n" for line in _comments(field)])
        members.append(f"{comment}{inner}{name}{'' if name in required else '?'}: {_type(field, inner)}")
    more = schema.get("additionalProperties")
    if more:
        members.append(f"{inner}[k: string]: {_type(more, inner) if isinstance(more, Mapping) else 'any'}")
    return "{\n" + ",\n".join(members) + f"\n{indent}}}" if members else "{}"


_CONSTRAINTS = (
    *("exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength", "maximum"),
    *("minItems", "minLength", "minimum", "multipleOf", "pattern", "uniqueItems"),
)


def _comments(field: Any) -> list[str]:
    """What is said of a parameter: its description, its constraints, its default."""
    field = schema_of(field)
    lines = (field.get("description") or "").split("\n") if field.get("description") else []
    constraints = [f"{key}: {field[key]}" for key in _CONSTRAINTS if key in field]
    lines += [", ".join(constraints)] if constraints else []
    if field.get("default") is not None:
        value = field["default"]
        lines.append(f"Default: {repr(value) if isinstance(value, (str, int, float)) else to_json(value)}")
    return lines


def harmony(tools: Sequence[Mapping[str, Any]]) -> str:
    """The form of gpt-oss, as the library openai-harmony 0.0.8 writes it: keys in their own order, defaults
    beside, and what an object says indented by its depth."""
    lines = ["# Tools", "", "## functions", "", "namespace functions {", ""]
    for tool in tools:
        function = function_of(tool)
        lines += (
            [f"// {line}" for line in function["description"].split("\n")]
            if "description" in function
            else []
        )
        parameters = function.get("parameters")
        declared = "()" if parameters is None else f"(_: {_harmony_type(parameters, '')})"
        lines += [f"type {function['name']} = {declared} => any;", ""]
    return "\n".join([*lines, "} // namespace functions"])


def _harmony_type(schema: Any, indent: str) -> str:
    schema = schema_of(schema)
    kind: Any = schema.get("type")
    null = " | null" if schema.get("nullable") else ""
    if "oneOf" in schema:
        return "\n" + "\n".join(_harmony_options(schema, indent))
    if isinstance(kind, list):
        return " | ".join([_NAMES.get(str(each), str(each)) for each in kind]) + null
    if kind == "object":
        return _harmony_object(schema, indent) + null
    if kind == "array":
        items = {key: value for key, value in schema_of(schema.get("items")).items() if key != "nullable"}
        return (f"{_harmony_type(items, indent)}[]" if "items" in schema else "Array<any>") + null
    values = [f'"{value}"' for value in schema.get("enum") or () if isinstance(value, str)]
    if kind == "string" and values:
        return " | ".join(values) + null
    return (_NAMES.get(kind, "any") if isinstance(kind, str) and kind != "null" else "any") + null


def _harmony_options(schema: Mapping[str, Any], indent: str) -> list[str]:
    """A line each; what one says is left out where the whole says something, unless it has a default."""
    options: list[str] = []
    for option in map(schema_of, schema["oneOf"]):
        shown = "default" in option or "description" not in schema
        said = [option["description"]] if "description" in option and shown else []
        said += [_harmony_default(option, "default: ")] if "default" in option else []
        comment = f" // {' '.join(said)}" if said else ""
        options.append(f"{indent} | {_harmony_type(option, indent + '   ')}{comment}")
    return options


def _harmony_object(schema: Mapping[str, Any], indent: str) -> str:
    lines = [f"{indent}// {schema['description']}\n{{"] if schema.get("description") else ["{"]
    required = schema.get("required") or ()
    for name, field in schema_of(schema.get("properties")).items():
        field = schema_of(field)
        lines += [f"{indent}// {line}" if line else f"{indent}//" for line in _harmony_comments(field)]
        mark = "" if name in required else "?"
        if "oneOf" in field:
            lines += [f"{indent}{name}{mark}:{_harmony_type(field, indent)}", f"{indent},"]
        else:
            beside = _harmony_default(field, " // default: ")
            lines.append(f"{indent}{name}{mark}: {_harmony_type(field, indent + '    ')},{beside}")
    return "\n".join([*lines, f"{indent}}}"])


def _harmony_comments(field: Mapping[str, Any]) -> list[str]:
    title = [field["title"], ""] if "title" in field else []
    said = [field["description"]] if field.get("description") is not None else []
    examples = [f"- {_compact(each)}" for each in field.get("examples") or () if isinstance(each, str)]
    examples = ["Examples:", *examples] if examples else []
    if "oneOf" not in field:
        return title + said + examples
    default = [_harmony_default(field, "default: ")] if "default" in field else []
    return title + examples + said + default


def _harmony_default(field: Mapping[str, Any], words: str) -> str:
    if "default" not in field:
        return ""
    bare = isinstance(field["default"], str) and "enum" in field
    return words + (field["default"] if bare else _compact(field["default"]))


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
