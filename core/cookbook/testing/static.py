"""L0: what can be told of a plugin without running what it offers."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

from .. import registry as registries
from ..errors import UnknownIdError
from ..registry import Plugin, Registry
from .importing import facts_of
from .rules import Report

MOST_CPU_S = 1.0
"""What an import may take: processor time, so that a busy machine is nobody's fault."""
PATIENCE_S = 30.0

_RULES = {  # of the registry's kinds of problems
    "metadata": "L0.loads",
    "namespace": "L0.loads",
    "loading": "L0.loads",
    "disabled": "L0.loads",
    "core-bound": "L0.core-bound",
    "clash": "L0.clash",
    "hooks": "L0.hooks",
}
_LICENCE = re.compile(r"^(License-Expression|License|License-File|Classifier): *(.*\S)", re.MULTILINE)


def check_plugin(
    namespace: str, registry: Registry | None = None, *, patience_s: float = PATIENCE_S
) -> Report:
    """Looks at L0 of a namespace: what the registry knows of it, its dist's metadata, and what its import and
    that of its rows' targets do in a fresh process.

    The process comes first: what hangs there is never imported here. registry: where the namespace is looked
    for; everything installed, if none is given. patience_s: how long the import, and that of each target,
    may take. Raises `UnknownIdError` for a namespace there isn't.
    """
    told = facts_of(namespace, patience_s)
    report = Report(f"plugin {namespace}")
    if not told or told[0]["hung"]:  # it would hang, or end, this process too
        why = told[0]["error"] if told else "the process that imports it died, or hung"
        report.find("L0.loads", f"importing it: {why}")
        report.unchecked |= dict.fromkeys(_IMPORTED, f"{namespace} doesn't load")
        return report
    registry = registry or registries.default()
    plugins = [plugin for plugin in registry.plugins if plugin.namespace == namespace]
    if not plugins:
        raise UnknownIdError(f"there is no namespace {namespace}: {_hint(registry, namespace)}")
    for plugin in plugins:
        for kind, problem in zip(plugin.kinds, plugin.problems, strict=True):
            if kind in _RULES:  # "slow" is measured without what else the machine does
                report.find(_RULES[kind], problem)
    if plugins[0].status != "ok":
        report.unchecked |= dict.fromkeys(_IMPORTED, f"{namespace} doesn't load")
        return report
    _check_metadata(plugins[0], report)
    _check_import(told, report)
    _check_targets(told, report)
    return report


def _hint(registry: Registry, namespace: str) -> str:
    from ..hints import unknown_id

    return unknown_id(registry.plugins, registry.rows(), None, f"{namespace}/")


def _check_metadata(plugin: Plugin, report: Report) -> None:
    from packaging.specifiers import SpecifierSet

    bounds = SpecifierSet(plugin.bound)
    if plugin.bound and not any(bound.operator in ("<", "<=", "==", "===", "~=") for bound in bounds):
        report.find("L0.core-bound", f"cookbook-core{plugin.bound} has no upper end")
    text = metadata.distribution(plugin.dist).read_text("METADATA") or ""
    said = _LICENCE.findall(text.partition("\n\n")[0])
    if not any("License ::" in value if name == "Classifier" else value != "UNKNOWN" for name, value in said):
        report.find("L0.licence", f"the METADATA of {plugin.dist} {plugin.version} names none")


_IMPORTED = ("L0.import-time", "L0.prints", "L0.heavy-import", "L0.network", "L0.target")


def _check_import(told: list[dict[str, Any]], report: Report) -> None:
    loaded = told[0]
    if loaded["error"]:
        report.find("L0.loads", f"in a process of its own: {loaded['error']}")
    report.facts["import/cpu_s"] = round(loaded["cpu_s"], 3)
    if loaded["cpu_s"] > MOST_CPU_S:
        report.find("L0.import-time", f"importing it took {loaded['cpu_s']:.1f} s")
    if loaded["printed"]:
        report.find("L0.prints", f"it printed {loaded['printed'].strip()[:80]!r}")
    if loaded["heavy"]:
        report.find("L0.heavy-import", f"importing it imports {', '.join(loaded['heavy'])}")
    if loaded["connections"]:
        report.find("L0.network", f"importing it: {loaded['connections'][0]}")


def _check_targets(told: list[dict[str, Any]], report: Report) -> None:
    rows, targets = told[0]["rows"], told[1:]
    for (kind, id, target), found in zip(rows, targets, strict=False):
        if found["error"]:
            report.find("L0.target", f"{kind} {id}, {target}: {found['error']}")
    if len(targets) < len(rows):
        kind, id, target = rows[len(targets)]
        report.find("L0.target", f"{kind} {id}: importing {target} ended the process, or hung")
