"""Configs: `chz` classes that are the command line too.

A config is settled from layers, the later over the earlier: default, recipe, local, command line.
Each layer is a flat mapping {"lr": 3e-4, "env": "math/arithmetic", "env.digits": 3}: the same form
is typed by the user, written by a recipe and kept in a run's record.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chz
from chz.blueprint import (
    Castable,
    ConstructionException,
    ExtraneousBlueprintArg,
    InvalidBlueprintArg,
    MissingBlueprintArg,
)

from . import hints, registry
from .errors import ConfigError, CookbookError, PluginError
from .kinds import BackendConfig, DatasetConfig, EnvConfig, GraderConfig, TrackerConfig

Layer = tuple[str, Mapping[str, Any]]
_REFUSALS = (
    ConstructionException,
    ExtraneousBlueprintArg,
    InvalidBlueprintArg,
    MissingBlueprintArg,
    TypeError,
)
_IMPORT_STRING = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")  # none of chz's wildcards: one key, one spelling


class by_id(chz.factories.MetaFactory):
    """A field that is chosen by id: `env=math/arithmetic env.digits=3`, or `env=my_module:MyEnv`.

    `default` is the id where none is given. With `many`, the field is a tuple and each element is
    chosen on its own: `evals.0=math/arithmetic evals.0.digits=3`.
    """

    def __init__(self, kind: str, *, default: str | None = None, many: bool = False) -> None:
        super().__init__()
        self.kind, self.default, self.many = kind, default, many

    def unspecified_factory(self) -> Callable[..., Any] | None:
        if self.many:
            return self.field_annotation  # type: ignore[return-value]
        return self.from_string(self.default) if self.default else None

    def from_string(self, factory: str) -> Callable[..., Any]:
        return _factory(self.kind, factory)

    def perform_cast(self, value: str) -> Any:
        raise chz.tiepin.CastError(f"{value!r} is the id of a {self.kind}, not a value")


def config_class(kind: str, id: str) -> type:
    """The class of the configs of an id, or of "module:Class". Raises what `settle` raises for it."""
    return _class_of(_factory(kind, id))


def is_import_string(id: str, kind: str) -> bool:
    """Whether it is "module:Class" rather than an id of this kind."""
    return bool(_IMPORT_STRING.fullmatch(id)) and not id.startswith(f"{kind}:")


def _factory(kind: str, id: str) -> Callable[..., Any]:
    """The config class behind an id, or behind "module:Class" (the current folder included).

    Raises `UnknownIdError`, `PluginError`, or `ConfigError` where the class is of another kind.
    """
    factory = _import(kind, id) if is_import_string(id, kind) else registry.find(kind, id).load()
    base = {"env": EnvConfig, "grader": GraderConfig, "dataset": DatasetConfig}.get(kind)
    base = base or {"backend": BackendConfig, "tracker": TrackerConfig}[kind]
    cls = _class_of(factory)
    if not (isinstance(cls, type) and issubclass(cls, base) and chz.is_chz(cls)):
        raise PluginError(f"{kind} {id!r} is {cls!r}, not a @chz.chz class derived from {base.__name__}")
    return factory


def _import(kind: str, target: str) -> Any:
    module, attr = target.split(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current folder, as `python -m` has it
    try:
        return functools.reduce(getattr, attr.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as e:
        if module.endswith(".py"):
            raise PluginError(f"{kind}={target}: leave out .py, {kind}={module[:-3]}:{attr}") from None
        where = f"it must be importable from {Path.cwd()} or be installed"
        if getattr(e, "name", None) == module.partition(".")[0] and isinstance(e, ModuleNotFoundError):
            where = hints.missing_module(module)
        listing = f"`cookbook list {kind}` shows the registered ones"
        raise PluginError(f"{kind}={target}: {e}; {where}; {listing}") from None
    except (Exception, SystemExit) as e:  # it is somebody's code: anything may come
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        raise PluginError(f"{kind}={target}: importing {module} failed: {reason}") from e


def _class_of(factory: Any) -> Any:
    return factory.func if isinstance(factory, functools.partial) else factory


class Preset(chz.Blueprint):
    """A recipe: a config class and the values that differ from its defaults, and what `--local` adds."""

    def __init__(self, target: type, name: str, local: Mapping[str, Any]) -> None:
        super().__init__(target)
        self.name, self.local = name, dict(local)


def preset(
    target: type, *, name: str, local: Mapping[str, Any] | None = None, **values: Any
) -> chz.Blueprint:
    """A recipe in one call. Nested options are written `**{"env.digits": 3}`."""
    blueprint = Preset(target, name, local or {})
    blueprint.apply(values, layer_name="recipe")
    return blueprint


def layers_of(blueprint: chz.Blueprint) -> list[Layer]:
    """The values that a recipe's blueprint holds, layer by layer."""
    # chz 0.4 has no public way to read them back.
    layers = blueprint._arg_map._layers
    return [(layer.layer_name or "recipe", {**layer.qualified, **layer.wildcard}) for layer in layers]


def from_argv(argv: Sequence[str]) -> Layer:
    """`key=value` words as a layer. Raises `ConfigError` for another form and for a key given twice."""
    values: dict[str, Any] = {}
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise ConfigError(f"{word!r} isn't key=value; options look like steps=20 or env.digits=3")
        if key in values:
            raise ConfigError(f"{key!r} is given twice: {values[key].value!r} and {value!r}; keep one")
        values[key] = Castable(value)
    return "command line", values


@dataclass(frozen=True)
class Settled:
    """A config as built, and how it came about.

    ids: {path: (kind, id)} of what was chosen by id. dropped: lines on recipe values that a newly
    chosen id made void.
    """

    config: Any
    ids: Mapping[str, tuple[str, str]]
    dropped: Sequence[str]

    def values(self) -> dict[str, Any]:
        """The whole config as one flat JSON-able layer: settling that alone gives an equal config."""
        return dict(_flatten(self.config, "", self.ids))


def settle(target: type, layers: Sequence[Layer]) -> Settled:
    """Builds `target` from the layers. Raises `CookbookError` with one line for whatever is wrong."""
    blueprint, ids, dropped = _blueprint(target, layers)
    try:
        return Settled(blueprint.make(), ids, dropped)
    except CookbookError as e:
        raise type(e)(_one_line(str(e))) from e  # chz adds where it was at
    except (*_REFUSALS, ValueError) as e:  # a config's own validator may well raise a ValueError
        raise ConfigError(_one_line(str(e), _classes(target, ids), layers)) from e


def help_text(target: type, layers: Sequence[Layer], *, color: bool = False) -> str:
    """Every option with its value and the layer that it came from. Raises what `settle` raises."""
    blueprint, ids, _ = _blueprint(target, layers)
    try:
        lines = blueprint.get_help(color=color).splitlines()
    except _REFUSALS as e:
        raise ConfigError(_one_line(str(e), _classes(target, ids), layers)) from None
    start = next((i for i, line in enumerate(lines) if line == "Arguments:"), 0)
    return "\n".join(lines[start + 1 :]).replace("(from default)", "(default)     ")


def _blueprint(
    target: type, layers: Sequence[Layer]
) -> tuple[chz.Blueprint, dict[str, tuple[str, str]], list[str]]:
    copies: list[tuple[str, dict[str, Any]]] = [("default", {})]
    copies += [(name, dict(values)) for name, values in layers]
    ids: dict[str, tuple[str, str]] = {}
    dropped: list[str] = []
    _choose(target, "", copies, ids, dropped)
    blueprint = chz.Blueprint(target)
    for name, values in copies:
        blueprint.apply(values, layer_name=name)
    return blueprint, ids, dropped


def _choose(
    cls: Any,
    prefix: str,
    layers: list[tuple[str, dict[str, Any]]],
    ids: dict[str, tuple[str, str]],
    dropped: list[str],
) -> None:
    """Finds, depth first, what each by-id field is set to, and drops the values meant for another id."""
    for field in chz.chz_fields(_class_of(cls)).values():
        factory, path = field.meta_factory, prefix + field.logical_name
        for _, values in layers:
            if path in values:
                values[path] = _settable(values[path], field.x_type)
        if not isinstance(factory, by_id):
            if isinstance(field.final_type, type) and chz.is_chz(field.final_type):
                _choose(field.final_type, f"{path}.", layers, ids, dropped)
            continue
        for each in _elements(path, layers) if factory.many else [path]:
            id = _settle_id(each, factory, layers, dropped)
            if id is None:
                continue
            chosen = _factory(factory.kind, id)
            if isinstance(chosen, functools.partial):  # a row's options, JSON and ids among them
                layers[0][1].update({f"{each}.{k}": v for k, v in chosen.keywords.items()})
            if not any(each in values for _, values in layers):
                layers[0][1][each] = Castable(id)  # the default, so that the help can name it
            for _, values in layers:
                if each in values:  # chz's own meta-factories don't reach into tuples
                    values[each] = chosen if factory.many else Castable(id)
            ids[each] = factory.kind, id
            _choose(chosen, f"{each}.", layers, ids, dropped)


def _settable(value: Any, type: Any) -> Any:
    """A value as chz takes it: JSON has no tuples, and a string for what isn't one is read as if typed."""
    if isinstance(value, (str, list)) and not chz.tiepin.is_subtype_instance(value, type):
        return Castable(value) if isinstance(value, str) else _tuples(value)
    return value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _elements(path: str, layers: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The paths of a tuple's elements. Raises `ConfigError` unless each from 0 on is given."""
    under = [k for _, values in layers for k in values if k.startswith(path + ".")]
    n = len({k[len(path) + 1 :].split(".")[0] for k in under})
    paths = [f"{path}.{i}" for i in range(n)]
    for _, values in layers:
        if isinstance(values.get(path), Castable) or (n and values.get(path)):
            raise ConfigError(f"{path} holds several: give each its number, {path}.0=... {path}.1=...")
        if n:
            values.pop(path, None)  # an empty tuple that a later layer adds to
    for each in paths:
        if not any(each in values for _, values in layers):
            raise ConfigError(f"{each} not given: add {each}=... ({path} is numbered from 0)")
    return paths


def _settle_id(
    path: str, factory: by_id, layers: list[tuple[str, dict[str, Any]]], dropped: list[str]
) -> str | None:
    """The id that the last layer gives `path`; values under it that were set for another id are dropped."""
    in_force, at_layer = factory.default, []
    for _, values in layers:
        value = values.get(path, in_force)
        value = value.value if isinstance(value, Castable) else value
        in_force = _full_id(factory.kind, value) if isinstance(value, str) else value
        at_layer.append(in_force)
    under = [k for _, values in layers for k in values if k.startswith(path + ".")]
    if in_force is None and under:
        raise ConfigError(f"{path} not given: add {path}=ID, which {under[0]} is an option of")
    if in_force is not None and not isinstance(in_force, str):
        return None  # a config object, given from Python
    for (name, values), id in zip(layers, at_layer, strict=True):
        if id != in_force and id is not None:
            void = [k for k in values if k.startswith(path + ".")]
            dropped += [f"{k}={values.pop(k)} of the {name} was for {path}={id}, dropped" for k in void]
    return in_force


def _full_id(kind: str, id: str) -> str:
    """The one spelling of an id: "tinker" and "backend:core/tinker" are core/tinker."""
    id = id.removeprefix(f"{kind}:")
    return id if "/" in id or ":" in id else f"core/{id}"


def _flatten(
    value: Any, path: str, ids: Mapping[str, tuple[str, str]], implied: Any = None
) -> Iterable[tuple[str, Any]]:
    """implied: the class that `path` has where nothing is said."""
    if chz.is_chz(value):
        if path in ids:
            yield path, ids[path][1]
        elif path and type(value) is not implied:
            yield path, f"{type(value).__module__}:{type(value).__qualname__}"
        for field in chz.chz_fields(value).values():
            name = field.logical_name
            implied = None if isinstance(field.meta_factory, by_id) else field.final_type
            yield from _flatten(getattr(value, name), f"{path}.{name}" if path else name, ids, implied)
    elif isinstance(value, (tuple, list)) and any(chz.is_chz(v) for v in value):
        for i, element in enumerate(value):
            yield from _flatten(element, f"{path}.{i}", ids)
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def _classes(target: type, ids: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The config class at each path that has one."""
    fields = chz.chz_fields(target).values()
    nested = {field.logical_name: field.final_type for field in fields if chz.is_chz(field.final_type)}
    return nested | {path: _class_of(_factory(*chosen)) for path, chosen in ids.items()}


def _one_line(text: str, classes: Mapping[str, Any] = {}, layers: Sequence[Layer] = ()) -> str:
    """chz explains itself over several lines; one says it."""
    cast = re.search(r"provided for param '([^']*)'.*?as a value:\n([^\n]*)", text, re.S)
    if cast:
        return f"{cast[1]}: {cast[2]} (--help lists the options)"
    extra = re.match(r"Extraneous argument '([^']*)'", text)
    if extra:
        near = re.search(r"(?:Did you mean|maybe you meant) '([^']*)'", text)
        meant = hints.with_dots(extra[1], classes) or (near[1] if near else "")
        typed = any(extra[1] in values for name, values in layers if name == "command line")
        within = "" if typed or "." not in meant else f', in a recipe **{{"{meant}": ...}}'
        guess = f"; did you mean {meant!r}{within}?" if meant else ""
        return f"there is no option {extra[1]!r}{guess} (--help lists them)"
    missing = re.match(r"Missing required arguments for parameter\(s\): (.*)", text)
    if missing:
        names = missing[1].split(", ")
        return f"{', '.join(names)} not given: add " + " ".join(f"{n}=..." for n in names)
    return " ".join(re.sub(r"\(when evaluating argument [^)]*\)", "", text).split()).rstrip("; ")


def json_object(name: str, text: str) -> dict[str, Any]:
    """An option that is a JSON object; empty for "". Raises `ConfigError` with one line for what is none."""
    try:
        value = json.loads(text) if text else {}
    except ValueError as e:
        raise ConfigError(f"{name}={text!r} is no JSON: {e}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{name}={text!r} is no JSON object, {{...}}")
    return value
