"""`cookbook list --markdown`: every registered id with its options, as a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import chz
from chz.util import MISSING

from . import configs
from .errors import PluginError
from .registry import Row

_HEAD = """\
# Catalogue

Every registered id, by kind, with its options. `cookbook list --markdown` makes this page; `cookbook show ID`
says where the code is.
"""
_TITLES = {
    "env": "Environments",
    "grader": "Graders",
    "renderer": "Renderers",
    "dataset": "Datasets",
    "recipe": "Recipes",
    "backend": "Backends",
    "tracker": "Trackers",
    "command": "Commands",
}


def page(rows: Sequence[Row]) -> str:
    """The rows as Markdown; a row whose target can't be imported says why in place of its options."""
    kinds = [kind for kind in _TITLES if any(row.kind == kind for row in rows)]
    sections = [_section(kind, [row for row in rows if row.kind == kind]) for kind in kinds]
    return "\n".join([_HEAD, *sections]).rstrip()


def _section(kind: str, rows: Sequence[Row]) -> str:
    lines = [f"## {_TITLES[kind]}", "", *_table(("id", "what", "needs", "from"), map(_cells, rows)), ""]
    for row in rows:
        body = _body(row)
        if body:
            lines += [f"### {_TITLES[kind][:-1]} `{row.id}`", "", *body, ""]
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    own = f" {_code(json.dumps(row.options))}" if row.options else ""
    return _code(row.id), _text(row.summary) + own, ", ".join(row.needs), row.dist


def _body(row: Row) -> list[str]:
    """Of a config what there is to set, of a recipe what it sets; of another row nothing."""
    try:
        target = row.load()
        if row.kind == "recipe":
            return _recipe(target())
    except PluginError as error:
        return [str(error)]
    code = getattr(target, "func", target)
    if not chz.is_chz(code):
        return []
    least, most = getattr(code, "reward_range", (None, None))
    return ([] if least is None else [f"Reward: {least:g} to {most:g}.", ""]) + _options(code)


def _recipe(blueprint: Any) -> list[str]:
    """A recipe's own values; of one that sets nothing, all options."""
    own = [(name, values) for name, values in configs.layers_of(blueprint) if values]
    lines = [] if own else [*_options(blueprint.target), ""]
    local = getattr(blueprint, "local", {})
    for name, values in [*own, *([("local", local)] if local else [])]:
        said = " ".join(f"{key}={value}" for key, value in sorted(values.items()))
        lines += [f"{name}: {_code(said)}", ""]
    return lines[:-1]


def _options(config: Any) -> list[str]:
    rows = []
    for option in chz.chz_fields(config).values():
        kind = chz.tiepin.type_repr(option.x_type)
        rows.append((_code(option.logical_name), _code(kind), _default(option), _text(option._doc)))
    return _table(("option", "type", "default", "what"), rows) if rows else []


def _default(option: Any) -> str:
    """What holds where nothing is given; "" where something must be."""
    chosen = getattr(option.meta_factory, "default", None)
    if isinstance(option.meta_factory, configs.by_id) and chosen:
        return _code(chosen)
    if callable(option._default_factory):
        return "its own"  # a config whose options have defaults
    return "" if option._default is MISSING else _code(repr(option._default))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _text(text: str) -> str:
    return text.replace("<", "&lt;")  # "<answer>" is no HTML


def _code(text: str) -> str:
    return f"`{text}`"
