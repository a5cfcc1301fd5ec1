"""`check`: everything that a plugin or one of its rows is held to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import metadata
from typing import Any

from .. import registry
from ..configs import config_class, is_import_string
from ..errors import ConfigError, CookbookError, PluginError
from ..kinds import EnvConfig
from .backends import check_backend
from .cost import check_cost
from .datasets import check_dataset
from .determinism import check_determinism
from .graders import check_grader
from .protocol import check_protocol
from .recipes import check_recipe
from .renderers import check_renderer
from .rewards import check_rewards
from .rules import RULES, Report
from .static import check_plugin
from .subject import PATIENCE_S, Subject, build, told


def check_env(
    env: str | EnvConfig,
    values: Mapping[str, Any] | None = None,
    *,
    count: Any = None,
    patience_s: float = PATIENCE_S,
) -> Report:
    """L1 to L4 of one environment.

    env: its id, "module:Class", or the config itself, of which what another process must build isn't
    checked. values: options of an id, {"digits": 3}. count: of the tokens in a text; bytes where there is
    none. patience_s: how long one call may take. Raises `CookbookError` for an id that isn't there.
    """
    if isinstance(env, str):
        values = {**_sample_of(env), **(values or {})}
        subject = Subject(env, lambda: build(env, values), env, values, patience_s)
    else:
        subject = Subject(type(env).__name__, lambda: env, patience_s=patience_s)
    report = Report(subject.where)
    if values:
        report.facts["options"] = dict(values)
    if check_protocol(subject, report):
        check_determinism(subject, report)
        check_rewards(subject, report)
        check_cost(subject, report, count)
    else:
        report.unchecked["L2 to L4"] = "there is no episode to look at before L1 holds"
    return report


def _sample_of(id: str) -> Mapping[str, Any]:
    """The options that stand in where the defaults need the network, as the class itself gives them."""
    try:
        return getattr(config_class("env", id), "check_with", {})
    except PluginError:
        return {}  # `build` tells


def check(
    target: str,
    *,
    values: Mapping[str, Any] | None = None,
    ignore: Collection[str] = (),
    count: Any = None,
) -> list[Report]:
    """Checks an id, of any kind, or all that a namespace registers, its package first.

    values: options for an environment that `target` names. ignore: rules whose findings are left out.
    Raises `UnknownIdError` for what isn't there, and `ConfigError` for a rule that there isn't.
    """
    unknown = [rule for rule in ignore if rule not in RULES]
    if unknown:
        raise ConfigError(f"there is no rule {unknown[0]!r}; `cookbook check --rules` lists them")
    reports = _reports(target, values or {}, count)
    for report in reports:
        report.findings = [finding for finding in report.findings if finding.rule not in ignore]
    return reports


def _reports(target: str, values: Mapping[str, Any], count: Any) -> list[Report]:
    if is_import_string(target, "env"):
        return [check_env(target, values, count=count)]
    if any(point.name == target for point in metadata.entry_points(group="cookbook")):
        package = check_plugin(target)
        if any(finding.rule == "L0.loads" for finding in package.findings):
            return [package]  # before anything of it is imported here: it may hang
        rows = [row for row in registry.default().rows() if row.id.partition("/")[0] == target]
        return [package, *(_row(row, {}, count) for row in rows if row.kind in _KINDS)]
    return [_row(row, values, count) for row in registry.default().find_all(target) if row.kind in _KINDS]


_KINDS = {
    "env": check_env,
    "grader": check_grader,
    "renderer": check_renderer,
    "dataset": check_dataset,
    "recipe": check_recipe,
    "backend": check_backend,
}


def _row(row: registry.Row, values: Mapping[str, Any], count: Any) -> Report:
    """A report, whatever happens: one row takes no other down."""
    try:
        report = check_env(row.id, values, count=count) if row.kind == "env" else _KINDS[row.kind](row.id)
    except CookbookError as error:
        report = Report(row.id)
        report.find("L1.build", told(error))
    report.where = f"{row.kind} {row.id}"
    return report
