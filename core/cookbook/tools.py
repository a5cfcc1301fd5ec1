"""Tools that a model may call: a tool is a typed function. `describe` makes its declaration from its
signature, `call` runs what a reply calls.

Arguments are validated strictly: an "integer" in the declaration is a JSON integer and no "3", so what a
model is rewarded for is what the declaration says. Renderers whose calls carry no types (XML) give them the
declared ones before. pydantic is imported when the first tool is described.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, get_type_hints
from weakref import WeakKeyDictionary

from .errors import CookbookError, EnvError

if TYPE_CHECKING:
    from .types import Message

MAX_CALLS = 16
"""How many calls of one reply are run; one message tells of the rest."""
MAX_LINE = 240
"""Characters of what the model is told of a call that failed."""
MAX_RESULT = 20_000
"""Characters of a result; a longer one is cut, and says so."""

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_FORM = "write `async def name(argument: type, ...) -> str`"


class Outcome(NamedTuple):
    """What came of a reply's calls: the messages that answer them, how many there were, how many failed."""

    messages: list[Message]
    calls: int
    failed: int


@dataclass(frozen=True, slots=True)
class _Tool:
    declaration: dict[str, Any]
    validate: Callable[[str], dict[str, Any]]


class _BadCall(Exception):
    """What a model got wrong; its text is told to the model."""


def describe(function: Callable[..., Any]) -> dict[str, Any]:
    """The declaration of a function or a bound method, in OpenAI's form.

    {"type": "function", "function": {"name", "description", "parameters": JSON schema}}: the description is
    the docstring's first paragraph; a parameter's is its line under "Args:", "name: ..." or "name (type):
    ...". Types: all that pydantic knows, str, int, float, bool, Literal, list, dict, Optional, Annotated,
    dataclasses and typed dicts among them; a default makes a parameter optional. Results are not declared.

    Raises `EnvError` with one line for what can't be declared: no function, no name (a lambda), a parameter
    without a type, *args, **kwargs.
    """
    return copy.deepcopy(_tool(function).declaration)


def declarations(functions: Sequence[Callable[..., Any]]) -> list[dict[str, Any]]:
    """`describe` of each. Raises `EnvError` for two of one name, too."""
    return [describe(function) for function in _by_name(functions).values()]


async def call(reply: Message, functions: Sequence[Callable[..., Any]]) -> list[Message]:
    """Runs the calls of a reply one after the other; returns a tool's message for each, none for none.

    A result that is a text is told as it is, anything else as JSON, cut after `MAX_RESULT` characters. What
    the model got wrong is told to it in one line that begins with "error: ": no such tool, arguments that are
    no JSON object (NaN and a key twice among them), that are missing, unknown or of another type, a call that
    no renderer could read, calls beyond `MAX_CALLS`. So is a ValueError that a tool raises: that is how a
    tool refuses. Any other exception of a tool goes up: then the environment failed, and not the model.

    Raises `EnvError` for functions that can't be declared, and for a result that is no JSON.
    """
    return (await run(reply, functions)).messages


async def run(reply: Message, functions: Sequence[Callable[..., Any]]) -> Outcome:
    """`call`, and how many calls there were and failed; those beyond `MAX_CALLS` did."""
    known = _by_name(functions)
    calls = list(_calls_of(reply))
    messages: list[Message] = []
    failed = max(len(calls) - MAX_CALLS, 0)
    for each in calls[:MAX_CALLS]:
        try:
            content = await _result(each, known)
        except _BadCall as e:
            content = _line(f"error: {e}")
            failed += 1
        messages.append(_told(each, content))
    if len(calls) > MAX_CALLS:
        rest = (
            f"error: only the first {MAX_CALLS} calls of a reply are run; {len(calls) - MAX_CALLS} were not"
        )
        messages.append(_told(calls[MAX_CALLS], rest))
    return Outcome(messages, len(calls), failed)


def _by_name(functions: Sequence[Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    known: dict[str, Callable[..., Any]] = {}
    for function in functions:
        name = _tool(function).declaration["function"]["name"]
        if name in known:
            raise EnvError(f"two tools are called {name!r}; a model calls by name, so rename one")
        known[name] = function
    return known


def _calls_of(reply: Message) -> Iterator[Mapping[str, Any]]:
    """The calls of a reply, then what was meant as one, whose order among the others no message tells."""
    for each in reply.get("tool_calls") or ():
        yield each if isinstance(each, Mapping) else {"reason": "no object"}
    for each in reply.get("unparsed_tool_calls") or ():
        yield {"reason": str(each.get("reason", "")) if isinstance(each, Mapping) else "no object"}


def _told(call: Mapping[str, Any], content: str) -> Message:
    """A tool's message, with the id and the name where the call has them."""
    message: Message = {"role": "tool", "content": content}
    if isinstance(id := call.get("id"), str):
        message["tool_call_id"] = id
    if isinstance(name := _function_of(call).get("name"), str):
        message["name"] = name
    return message


def _function_of(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function", call)
    return function if isinstance(function, Mapping) else {}


async def _result(call: Mapping[str, Any], known: Mapping[str, Callable[..., Any]]) -> str:
    """What a call's tool gave, as a text. Raises `_BadCall` for what the model got wrong."""
    if "reason" in call:
        raise _BadCall(f"this is no call that can be read: {call['reason']}")
    name = _function_of(call).get("name")
    if not isinstance(name, str) or name not in known:
        raise _BadCall(f"there is no tool {_short(name)}; there are: {', '.join(known)}")
    function = known[name]
    values = _arguments(name, _function_of(call).get("arguments"), _tool(function))
    try:
        result = function(**values)
        if inspect.isawaitable(result):
            result = await result
    except CookbookError:
        raise
    except ValueError as e:
        raise _BadCall(f"{name}: {e}") from None
    return _text(name, result)


def _arguments(name: str, written: Any, tool: _Tool) -> dict[str, Any]:
    """The arguments as Python's values, by name."""
    from pydantic import ValidationError
    from pydantic_core import from_json

    try:
        text = written if isinstance(written, str) else json.dumps({} if written is None else written)
        text = text if text.strip() else "{}"
        from_json(
            text, allow_inf_nan=False
        )  # first, since it refuses a nesting before Python's stack is full
        values = json.loads(text, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite)
    except (ValueError, TypeError, RecursionError) as e:
        raise _BadCall(f"{name}: the arguments are no JSON: {e}") from None
    if not isinstance(values, dict):
        raise _BadCall(f"{name}: the arguments are no JSON object")
    try:
        return tool.validate(text)
    except ValidationError as e:
        wrong = e.errors(include_url=False, include_context=False, include_input=False)
        lines = [f"{'.'.join(_cut(str(at), 40) for at in each['loc'])}: {each['msg']}" for each in wrong[:3]]
        raise _BadCall(f"{name}: {'; '.join(lines)}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"the key {_short(next(key for key in keys if keys.count(key) > 1))} stands there twice"
        )
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{_cut(text, 40)} is no finite number")
    return value


def _text(name: str, result: Any) -> str:
    if not isinstance(result, str):
        try:
            result = json.dumps(result, ensure_ascii=False, allow_nan=False)
        except ValueError as e:  # NaN, an integer too long to write: it hangs on the arguments
            raise _BadCall(f"{name}: the result can't be written: {e}") from None
        except (TypeError, RecursionError) as e:
            raise EnvError(
                f"the tool {name!r} gave what is no JSON ({e}); return a text, or numbers, lists, dicts"
            ) from None
    if len(result) > MAX_RESULT:
        result = f"{result[:MAX_RESULT]}... (cut: {len(result)} characters)"
    return result


def _short(value: Any) -> str:
    return _cut(repr(value[:60] if isinstance(value, str) else type(value).__name__), 60)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _line(text: str) -> str:
    return _cut(" ".join(text[: 4 * MAX_LINE].split()), MAX_LINE)


_TOOLS: WeakKeyDictionary[Callable[..., Any], dict[bool, _Tool]] = WeakKeyDictionary()  # by function, bound


def _tool(function: Any) -> _Tool:
    """Made once a function, however many episodes bind it."""
    bound = inspect.ismethod(function)
    plain = function.__func__ if bound else function
    if not inspect.isfunction(plain):
        raise EnvError(f"the tool {_short(function)} is no function and no bound method; {_FORM}")
    made = _TOOLS.setdefault(plain, {})
    if bound not in made:
        made[bound] = _described(function)
    return made[bound]


def _described(function: Callable[..., Any]) -> _Tool:
    name = function.__name__
    where = f"the tool {name!r} ({function.__module__})"
    if not _NAME.fullmatch(name):
        raise EnvError(f"{where} has no name that can be declared, letters of ASCII, digits and _; {_FORM}")
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            shown = parameter.replace(annotation=parameter.empty)
            raise EnvError(f"{where} has {shown}: a model gives each argument by its name; {_FORM}")
        if parameter.annotation is parameter.empty:
            hint = "pass the bound method" if parameter.name == "self" else _FORM
            raise EnvError(f"{where} has no type for its parameter {parameter.name!r}; {hint}")
    summary, told = _docstring(inspect.getdoc(function) or "", set(signature.parameters))
    try:
        schema, validate = _schema(function, signature, told)
    except Exception as e:  # of pydantic's own kinds, or of evaluating the annotations
        reason = _line(str(e))
        raise EnvError(f"{where} can't be declared: {type(e).__name__}: {reason}") from None
    declaration = {"name": name, "description": summary, "parameters": schema}
    return _Tool({"type": "function", "function": declaration}, validate)


def _schema(
    function: Callable[..., Any], signature: inspect.Signature, told: Mapping[str, str]
) -> tuple[dict[str, Any], Callable[[str], dict[str, Any]]]:
    """The JSON schema of the arguments, and what reads a JSON text as them."""
    from pydantic import ConfigDict, TypeAdapter
    from typing_extensions import TypedDict  # pydantic doesn't take Python 3.11's own

    hints = get_type_hints(function, include_extras=True)
    optional = {name for name, each in signature.parameters.items() if each.default is not each.empty}
    fields = {
        name: NotRequired[hints[name]] if name in optional else hints[name] for name in signature.parameters
    }
    arguments: Any = TypedDict("arguments", fields)  # type: ignore[misc]  # no model: names are free
    arguments.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    adapter = TypeAdapter(arguments)
    schema = _untitled(adapter.json_schema())
    for name, property in schema.get("properties", {}).items():
        if name in told:
            property["description"] = told[name]
        if name in optional and _is_json(signature.parameters[name].default):
            property["default"] = signature.parameters[name].default
    return schema, functools.partial(adapter.validate_json, strict=True)


def _untitled(schema: Any) -> Any:
    """Without the titles, which pydantic makes up from the names."""
    if isinstance(schema, dict):
        kept = {key: value for key, value in schema.items() if key != "title" or not isinstance(value, str)}
        return {key: _untitled(value) for key, value in kept.items()}
    return [_untitled(each) for each in schema] if isinstance(schema, list) else schema


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


_ARGUMENT = re.compile(r"\s*(\w+)\s*(?:\([^)]*\))?:\s+(\S.*)")


def _docstring(text: str, names: set[str]) -> tuple[str, dict[str, str]]:
    """The first paragraph in one line, and what the docstring says of each parameter: from its line on to the
    next that is indented no deeper."""
    summary, _, rest = text.partition("\n\n")
    told: dict[str, str] = {}
    current, depth = "", 0
    for line in rest.splitlines():
        indent = len(line) - len(line.lstrip())
        match = _ARGUMENT.fullmatch(line)
        if match and match[1] in names:
            current, depth = match[1], indent
            told[current] = match[2].strip()
        elif current and line.strip() and indent > depth:
            told[current] += f" {line.strip()}"
        else:
            current = ""
    return " ".join(summary.split()), told
