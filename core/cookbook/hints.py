"""Why something isn't found, and what to do next: looked into when something is missing, and only then."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .registry import Plugin, Row

SHIPPED = {name: f"cookbook-plugin-{name}" for name in ("math", "chat", "reasoning", "local")}
_DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)\s*=(?!=)\s*([^,()]*)")


def unknown_id(plugins: Sequence[Plugin], rows: Sequence[Row], kind: str | None, id: str) -> str:
    """Why no row of `kind` has this id, and what to do next. rows: those of that kind."""
    import difflib

    namespace, _, name = id.partition("/")
    plugin = next((plugin for plugin in plugins if plugin.namespace == namespace), None)
    out_of_date = [problem for old in stale() if old.namespace == namespace for problem in old.problems]
    if out_of_date:
        return "; ".join(out_of_date)
    if plugin and (plugin.status != "ok" or "hooks" in plugin.kinds):
        state = "is " + plugin.status if plugin.status != "ok" else "is installed"
        return f"{plugin.dist} {plugin.version} {state}: {'; '.join(plugin.problems)}"
    if plugin is None and (missing := _not_installed(namespace)):
        return missing
    ids = list(dict.fromkeys(row.id for row in rows))
    near = [other for other in ids if other.partition("/")[2] == name]
    near = near or difflib.get_close_matches(id, ids, n=1)
    listing = f"`cookbook list {kind}`" if kind else "`cookbook list`"
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{guess}{listing} lists what there is"


def _not_installed(namespace: str) -> str:
    """Which package would bring a namespace: one of this project's, or one that lies here; else ""."""
    dist = f"cookbook-plugin-{namespace}"
    if namespace in SHIPPED:
        return f"{dist} isn't installed; pip install {dist}"
    if Path(dist, "pyproject.toml").is_file():
        return f"{dist} lies here and isn't installed; pip install -e {dist}"
    return ""


def unknown_namespace(plugins: Sequence[Plugin], namespace: str) -> str:
    """What to do about a namespace that no plugin has."""
    import difflib

    out_of_date = [problem for old in stale() if old.namespace == namespace for problem in old.problems]
    if out_of_date or (missing := _not_installed(namespace)):
        return "; ".join(out_of_date) or missing
    near = difflib.get_close_matches(namespace, [plugin.namespace for plugin in plugins], n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}`cookbook plugins` lists what is installed, and `pip install -e FOLDER` adds to it"


def stale() -> list[Plugin]:
    """A "stale" plugin for each namespace whose entry point in a folder that is installed in place
    (`pip install -e`) isn't the one that was installed."""
    from .registry import Plugin

    found: dict[str, Plugin] = {}
    for dist in metadata.distributions():
        folder = _in_place(dist)
        declared = _declared(folder) if folder else None
        if folder is None or declared is None:
            continue
        installed = {point.name: point.value for point in dist.entry_points if point.group == "cookbook"}
        for namespace in sorted({*declared, *installed}):
            if declared.get(namespace) != installed.get(namespace) and namespace not in found:
                plugin = Plugin(namespace, dist.name, dist.version, declared.get(namespace, ""), "stale")
                plugin.problems.append(_told(plugin, folder, namespace in installed))
                plugin.kinds.append("stale")
                found[namespace] = plugin
    return list(found.values())


def _in_place(dist: metadata.Distribution) -> Path | None:
    """The folder that the dist was installed from, where it was installed in place."""
    from urllib.parse import urlparse
    from urllib.request import url2pathname

    try:
        origin = json.loads(dist.read_text("direct_url.json") or "{}")
        in_place = origin.get("dir_info", {}).get("editable") and origin["url"].startswith("file:")
        return Path(url2pathname(urlparse(origin["url"]).path)) if in_place else None
    except (ValueError, AttributeError, KeyError, OSError):  # not as pip writes it
        return None


def _declared(folder: Path) -> dict[str, str] | None:
    """The entry points of the group "cookbook" in a folder's pyproject.toml; None where it can't be read."""
    import tomllib

    try:
        with (folder / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file).get("project", {})
        points = project.get("entry-points", {}).get("cookbook", {})
        return None if "entry-points" in project.get("dynamic", []) else dict(points)
    except (ValueError, AttributeError, TypeError, OSError):
        return None


def _told(plugin: Plugin, folder: Path, installed: bool) -> str:
    file, mend = folder / "pyproject.toml", f"pip install -e {shlex.quote(str(folder))} again"
    if not plugin.module:
        return f"{file} has no entry point {plugin.namespace} any more, and it is still installed; {mend}"
    since = "another is installed" if installed else "none is installed"
    return f"{file} has the entry point {plugin.namespace} = {plugin.module!r}, and {since}; {mend}"


def missing_module(module: str) -> str:
    """What to do about a module that can't be imported from the current folder."""
    here, name = Path.cwd(), module.partition(".")[0]
    near = [
        folder for folder in _around(here) if (folder / f"{name}.py").is_file() or _is_package(folder / name)
    ]
    if near:
        return f"there is no {name}.py in {here}, but in {near[0]}: cd there"
    return f"there is no {name}.py in {here}, and nothing of that name is installed: cd to where it lies"


def _around(here: Path) -> Iterator[Path]:
    """The folder above and those one below, as far as they can be read."""
    yield here.parent
    try:
        yield from sorted(child for child in here.iterdir() if child.is_dir() and child.name[0] != ".")
    except OSError:
        return


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def syntax(error: SyntaxError) -> str:
    """How a value with a dot is written in a recipe, where that is what Python couldn't read; else ""."""
    match = _DOTTED.search(error.text or "")
    if not match or "assignment" not in str(error):
        return ""
    return f'; a value with a dot is written **{{"{match[1]}": {match[2].strip() or "..."}}}'


def with_dots(name: str, classes: Mapping[str, Any]) -> str:
    """What an option that there isn't should be called, where a dot was written as "_"; else "".

    classes: the config class that stands at each path.
    """
    import chz

    for at in (i for i, char in enumerate(name) if char == "_"):
        cls = classes.get(name[:at])
        if cls is not None and name[at + 1 :] in {f.logical_name for f in chz.chz_fields(cls).values()}:
            return f"{name[:at]}.{name[at + 1 :]}"
    return ""


def listed(plugins: Iterable[Plugin]) -> list[str]:
    """What `cookbook list` says of the plugins that aren't all there."""
    notes = {
        "not loaded: {}; `cookbook plugins` says why": lambda p: p.status == "broken",
        "left out by COOKBOOK_DISABLE_PLUGINS: {}": lambda p: p.status == "disabled",
        "with warnings: {}; `cookbook plugins` shows them": lambda p: p.status == "ok" and p.problems,
    }
    found = [(note, [p.namespace for p in plugins if holds(p)]) for note, holds in notes.items()]
    return [note.format(", ".join(dict.fromkeys(names))) for note, names in found if names]
