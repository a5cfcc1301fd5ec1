"""Entry points of the group "cookbook" -> rows of strings -> `find(kind, id).load()`.

The registry knows names and import strings, never types. A plugin that can't be loaded is listed with
its reason and takes no other down; what a row names is imported only when the row is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import pluggy

from . import __version__, hookspecs
from .errors import ConfigError, PluginError, UnknownIdError

KINDS = ("env", "grader", "renderer", "dataset", "recipe", "backend", "tracker", "command")
HOOKS = (*(f"register_{kind}s" for kind in KINDS), "renderer_for_model")
SLOW_S = 0.5

_NAMESPACE = re.compile(r"[a-z][a-z0-9_-]*")
_DOTTED = r"(?!\d)\w+(\.(?!\d)\w+)*"
_SHAPES = {  # of what `register` is given: the pattern, and the same in words
    "name": (re.compile(r"[a-z0-9][a-z0-9_.-]*"), "match [a-z0-9][a-z0-9_.-]*"),
    "target": (re.compile(f"{_DOTTED}:{_DOTTED}"), "look like package.module:attribute"),
    "summary": (re.compile(r".*\S.*"), "be one line of text"),
}
# What foreign code may end with and break nothing but itself. KeyboardInterrupt goes through.
_FAULTS = (Exception, SystemExit)


@dataclass(frozen=True, slots=True)
class Row:
    """One thing a plugin offers: `id` is "namespace/name", `target` is "pkg.mod:attr"."""

    kind: str
    id: str
    target: str
    summary: str
    options: dict[str, Any] = field(hash=False)
    needs: tuple[str, ...]
    dist: str
    version: str

    def load(self) -> Any:
        """Import the target, with the row's options bound to it; raises `PluginError` where that fails."""
        module, _, attr = self.target.partition(":")
        try:
            target: Any = importlib.import_module(module)
            for part in attr.split("."):
                target = getattr(target, part)
            return functools.partial(target, **self.options) if self.options else target
        except _FAULTS as error:
            who = f"{self.kind} {self.id} of {self.dist} {self.version}"
            raise PluginError(f"{who}: can't import {self.target}: {_reason(error)}") from error

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "needs": list(self.needs)}


@dataclass
class Plugin:
    """One entry point: who brings it, what became of it, what it offers.

    status: "ok", "broken", "disabled" or "stale". problems: why it isn't ok; warnings, for one that is.
    kinds: of each problem, "metadata", "namespace", "core-bound", "clash", "disabled", "loading", "hooks",
    "slow" or "stale". bound: what its dist demands of cookbook-core. import_s: seconds that its import and
    its hooks took.
    """

    namespace: str
    dist: str
    version: str
    module: str
    status: str = "ok"
    problems: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    bound: str = ""
    rows: list[Row] = field(default_factory=list)
    import_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "rows": [row.as_json() for row in self.rows]}

    def reject(self, kind: str, problem: str) -> None:
        """Make the plugin "broken", or "disabled" where that is the kind of problem, with no rows."""
        self.status = kind if kind == "disabled" else "broken"
        self.problems, self.kinds, self.rows = [problem], [kind], []

    def warn(self, kind: str, problem: str) -> None:
        self.problems.append(problem)
        self.kinds.append(kind)


class Registry:
    """The plugins that `entry_points` name, loaded; 'core' comes first.

    core_version: what each dist's own bound on cookbook-core is checked against. disabled: namespaces
    that are never imported. clock: seconds, for `Plugin.import_s`.
    """

    def __init__(
        self,
        entry_points: Iterable[metadata.EntryPoint],
        *,
        core_version: str = __version__,
        disabled: Collection[str] = frozenset(),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        found: dict[tuple[str, str], tuple[Plugin, metadata.EntryPoint]] = {}
        for point in entry_points:
            plugin = _judge(point, core_version)
            # Of two copies of one dist the first is the one that gets imported: sys.path decides.
            found.setdefault((plugin.namespace, _canonical(plugin.dist)), (plugin, point))
        claims = [found[key] for key in sorted(found, key=lambda key: (key[0] != "core", key))]
        self.plugins = [plugin for plugin, _ in claims]
        for plugin in self.plugins:
            name = plugin.namespace
            rivals = [f"{other.dist} {other.version}" for other in self.plugins if other.namespace == name]
            if name in disabled:
                plugin.reject("disabled", f"COOKBOOK_DISABLE_PLUGINS names {name}; take it out to enable it")
            elif len(rivals) > 1:
                problem = f"{' and '.join(rivals)} claim the namespace {name}, so none of them loads"
                plugin.reject("clash", f"{problem}; pip uninstall all but one")
        with _stdout_on_stderr():
            self._hooks = [(plugin, _load(plugin, point, clock)) for plugin, point in claims]

    @classmethod
    def scan(cls, path: Sequence[str | os.PathLike[str]] | None = None) -> Registry:
        """Everything installed, or what lies in the folders of `path`, less COOKBOOK_DISABLE_PLUGINS."""
        if path is None:
            points: list[metadata.EntryPoint] = list(metadata.entry_points(group="cookbook"))
        else:
            dists = metadata.distributions(path=[os.fspath(folder) for folder in path])
            points = [point for dist in dists for point in dist.entry_points if point.group == "cookbook"]
        disabled = os.environ.get("COOKBOOK_DISABLE_PLUGINS", "").split(",")
        return cls(points, disabled=frozenset(name.strip() for name in disabled))

    def rows(self, kind: str | None = None) -> list[Row]:
        """The rows of one kind or of all, core's first; raises `ConfigError` for a kind there isn't."""
        if kind not in (None, *KINDS):
            raise ConfigError(f"there is no kind {kind!r}; the kinds are {', '.join(KINDS)}")
        return [row for plugin in self.plugins for row in plugin.rows if kind in (None, row.kind)]

    def find(self, kind: str, id: str) -> Row:
        """The row of `namespace/name`; a bare name means core's, and "kind:" may stand before it.

        Raises `UnknownIdError`, or `ConfigError` where the id names another kind.
        """
        said, id = _split(id)
        if said not in (None, kind):
            raise ConfigError(f"{said}:{id} is no {kind}; `cookbook list {kind}` lists what there is")
        return self.find_all(f"{kind}:{id}")[0]

    def find_all(self, id: str) -> list[Row]:
        """The rows of any kind that have this id, one at least; raises `UnknownIdError` where none has."""
        kind, id = _split(id)
        rows = [row for row in self.rows(kind) if row.id == id]
        if not rows:
            from .hints import unknown_id

            hint = unknown_id(self.plugins, self.rows(kind), kind, id)
            raise UnknownIdError(f"there is no {kind or 'row'} {id}: {hint}")
        return rows

    def renderer_for_model(self, model: str) -> str | None:
        """The id of the renderer that the plugins name for a model (a name or a folder), or None.

        Raises `ConfigError` where two of them differ, `PluginError` where a plugin's hook fails.
        """
        answers: dict[str, str] = {}
        for plugin, hooks in self._hooks:
            if hooks is None:
                continue
            who = f"{plugin.dist} {plugin.version}"
            try:
                for answer in hooks.renderer_for_model(model=model):
                    answers.setdefault(_split(answer)[1], who)
            except _FAULTS as error:
                what = f"renderer_for_model({model!r}) of {who} failed: {_reason(error)}"
                raise PluginError(f"{what}; name a renderer yourself, `cookbook list renderer`") from error
        if len(answers) > 1:
            named = " and ".join(f"{id} ({who})" for id, who in answers.items())
            raise ConfigError(
                f"plugins differ on the renderer of {model!r}: {named}; name one of them yourself"
            )
        return next(iter(answers), None)


@functools.cache
def default() -> Registry:
    """The registry of everything installed, scanned once a process."""
    return Registry.scan()


def find(kind: str, id: str) -> Row:
    """`Registry.find` of everything installed."""
    return default().find(kind, id)


def renderer_for_model(model: str) -> str | None:
    """`Registry.renderer_for_model` of everything installed."""
    return default().renderer_for_model(model)


def _split(id: str) -> tuple[str | None, str]:
    """`env:math/gsm8k` -> "env", "math/gsm8k"; `rl` -> None, "core/rl"."""
    kind, colon, name = id.rpartition(":")
    if colon and kind not in KINDS:
        raise ConfigError(f"{id!r} begins with no kind; before the colon goes one of {', '.join(KINDS)}")
    return kind or None, name if "/" in name else f"core/{name}"


def _canonical(dist: str) -> str:
    return re.sub(r"[-_.]+", "-", dist).lower()


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        from .hints import syntax

        text += syntax(error)
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def _judge(point: metadata.EntryPoint, core_version: str) -> Plugin:
    """The plugin of an entry point, broken where its name or its dist's metadata rule it out.

    Reads the headers it needs itself: `dist.metadata` parses the README too, and raises for a folder
    that a half-finished uninstall left behind.
    """
    plugin = Plugin(point.name, "?", "?", point.value)
    try:
        text = (point.dist and point.dist.read_text("METADATA")) or ""
        head = re.findall(r"^(Name|Version|Requires-Dist): *(.*\S)", text.partition("\n\n")[0], re.MULTILINE)
        plugin.dist, plugin.version = dict(head)["Name"], dict(head)["Version"]
        needs = [value for name, value in head if name == "Requires-Dist"]
        bounds = [_bound(need) for need in needs if _canonical(need).startswith("cookbook-core")]
        plugin.bound = ",".join(str(bound) for bound in bounds if bound)
        fits = all(bound.contains(core_version, prereleases=True) for bound in bounds if bound)
    except Exception as error:
        plugin.reject("metadata", f"its METADATA can't be read: {_reason(error)}; install it again")
        return plugin
    if not _NAMESPACE.fullmatch(point.name):
        problem = f"the entry point of {plugin.dist} must match {_NAMESPACE.pattern}, not be {point.name!r}"
        plugin.reject("namespace", problem)
    elif not fits:
        core = f"cookbook-core{plugin.bound}"
        problem = f"{plugin.dist} {plugin.version} needs {core}; {core_version} is installed"
        plugin.reject(
            "core-bound", f"{problem}; pip install '{core}', or pip install --upgrade {plugin.dist}"
        )
    elif not plugin.bound and _canonical(plugin.dist) != "cookbook-core":
        plugin.warn("core-bound", f"{plugin.dist} should depend on cookbook-core>=X,<Y; it names no bound")
    return plugin


@functools.cache
def _bound(requirement: str) -> Any:
    """The bound on core in one Requires-Dist; empty where there is none or its marker doesn't hold."""
    from packaging.requirements import Requirement

    need = Requirement(requirement)
    if _canonical(need.name) != "cookbook-core" or (need.marker and not need.marker.evaluate({"extra": ""})):
        return ""
    return need.specifier


def _load(plugin: Plugin, point: metadata.EntryPoint, clock: Callable[[], float]) -> Any:
    """Import a plugin and collect its rows; returns its hooks, or None where anything went wrong."""
    if plugin.status != "ok":
        return None
    began, doing = clock(), f"importing {plugin.module}"
    try:
        module = point.load()
        doing = f"reading the hooks of {plugin.module}"
        hooks, marked = _read_hooks(module)
        for kind in KINDS:
            doing = f"register_{kind}s"
            getattr(hooks, doing)(register=_registrar(plugin, kind))
        unmarked = [name for name in HOOKS if name in dir(module) and name not in marked]
    except _FAULTS as error:
        kind = "hooks" if doing.startswith("reading") else "loading"
        plugin.reject(kind, f"{doing} failed: {_reason(error)}")
        return None
    plugin.import_s = clock() - began
    if unmarked:
        plugin.warn("hooks", f"{', '.join(unmarked)}: never called; write @cookbook.hookimpl above")
    elif not plugin.rows and "renderer_for_model" not in marked:
        plugin.warn("hooks", "it registers nothing; call register(name, target, summary) in its hooks")
    if plugin.import_s > SLOW_S:
        where = f"move heavy imports out of {plugin.module} into the modules that its rows name"
        plugin.warn("slow", f"loading it took {plugin.import_s:.1f} s, on every command; {where}")
    return hooks


def _read_hooks(module: Any) -> tuple[Any, set[str]]:
    """A plugin's hooks, and the names of those it has; raises `PluginError` for one that there isn't."""
    manager = pluggy.PluginManager("cookbook")  # one a plugin, so that each fault and row has an owner
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    callers = manager.get_hookcallers(module) or []
    for caller in callers:  # what check_pending() looks for, but by name
        if not caller.has_spec() and not all(impl.optionalhook for impl in caller.get_hookimpls()):
            import difflib

            near = difflib.get_close_matches(caller.name, HOOKS, n=1, cutoff=0)[0]
            raise PluginError(f"there is no hook {caller.name}; did you mean {near}?")
    return manager.hook, {caller.name for caller in callers}


def _registrar(plugin: Plugin, kind: str) -> hookspecs.Register:
    """The `register` that one hook of one plugin is called with."""

    def register(name: str, target: str, summary: str, *, options: Mapping = {}, needs: Any = ()) -> None:
        where = f"register({name!r}, ...)"
        for what, value in (("name", name), ("target", target), ("summary", summary)):
            pattern, rule = _SHAPES[what]
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise PluginError(f"{where}: the {what} must {rule}, not be {value!r}")
        if not isinstance(needs, (tuple, list)) or not all(isinstance(need, str) for need in needs):
            raise PluginError(f"{where}: needs must be a tuple of strings, not {needs!r}")
        try:
            own = json.loads(json.dumps({**options}, allow_nan=False))  # a copy, out of the plugin's reach
        except (TypeError, ValueError) as error:
            raise PluginError(f"{where}: options must be a dict that JSON can hold: {error}") from error
        id, dist = f"{plugin.namespace}/{name}", (plugin.dist, plugin.version)
        if any((row.kind, row.id) == (kind, id) for row in plugin.rows):
            raise PluginError(f"{where}: {kind} {id} is there already; give each {kind} its own name")
        plugin.rows.append(Row(kind, id, target, summary, own, tuple(needs), *dist))

    return register


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Sends what is printed meanwhile to standard error, what is written to descriptor 1 included."""
    with contextlib.ExitStack() as undo:
        _flush()
        with contextlib.suppress(OSError):  # a descriptor that is closed
            saved = os.dup(1)
            undo.callback(os.close, saved)
            undo.callback(os.dup2, saved, 1)
            os.dup2(2, 1)
        undo.callback(_flush)  # what went to sys.__stdout__ still lies in its buffer
        undo.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _flush() -> None:
    for stream in {sys.stdout, sys.__stdout__} - {None}:
        with contextlib.suppress(OSError, ValueError):  # it is closed, or its reader is gone
            stream.flush()
