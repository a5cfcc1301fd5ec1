"""`pytest --cookbook-check=NAMESPACE`: what `cookbook check` looks at, as tests beside an author's own.

    pytest --cookbook-check=words                      # the package and all that it registers
    pytest --cookbook-check=words/caps,words/first     # some of it
    pytest --cookbook-check=words --cookbook-ignore=L3.slow

One test for each thing and level, `cookbook-check::env:words/caps::L3`. What is to be checked is found out
when tests are collected, and imported when the first of its tests runs: a run without the flag imports
nothing of cookbook but this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .rules import Finding, Report

LEVELS = ("L0", "L1", "L2", "L3", "L4")
_LEVELS = {"plugin": ("L0",), "env": LEVELS[1:], "grader": ("L1", "L3"), "backend": ("L1", "L2")}
_LEVELS |= {"dataset": ("L1", "L2"), "renderer": ("L1",), "recipe": ("L1",)}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cookbook")
    group.addoption(
        "--cookbook-check",
        action="append",
        default=[],
        metavar="ID|NAMESPACE[,...]",
        help="check plugins, or some of what they register, as `cookbook check` does",
    )
    group.addoption(
        "--cookbook-ignore",
        action="append",
        default=[],
        metavar="RULE[,...]",
        help="rules that --cookbook-check leaves out, such as L3.slow",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """The checks come after the tests, and before anything is chosen among them (`-k`)."""
    if _words(config, "--cookbook-check"):
        _refuse_unknown_rules(_words(config, "--cookbook-ignore"))
        items += Checks.from_parent(session, name="cookbook-check", nodeid="cookbook-check").collect()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for each in terminalreporter.stats.values() for report in each]
    notes = [
        value
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "cookbook-check" and report.when == "call"
    ]
    if notes:
        terminalreporter.section("cookbook-check")
        for note in dict.fromkeys(notes):
            terminalreporter.line(note)


def _refuse_unknown_rules(rules: list[str]) -> None:
    from .rules import RULES

    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise pytest.UsageError(f"--cookbook-ignore: there is no rule {unknown[0]!r}, such as L3.slow")


def _words(config: pytest.Config, option: str) -> list[str]:
    """What a flag, which may be given more than once, names."""
    given = ",".join(config.getoption(option) or ())
    return [word.strip() for word in given.split(",") if word.strip()]


class Checks(pytest.Collector):
    """All that is checked. Each thing is looked at once, for the first of its levels that runs."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._reports: dict[str, Report] = {}

    def collect(self) -> list[pytest.Item]:
        return [item for target in _words(self.config, "--cookbook-check") for item in self.items(target)]

    def items(self, target: str) -> Iterator[pytest.Item]:
        from ..errors import CookbookError

        try:
            things = self._things(target)
        except CookbookError as error:
            raise pytest.UsageError(f"--cookbook-check={target}: {error}") from None
        for kind, id in things:
            for level in _LEVELS[kind]:
                where = id if kind == "plugin" or ":" in id else f"{kind}:{id}"
                yield Level.from_parent(self, name=f"{where}::{level}", checked=(kind, id), level=level)

    def _things(self, target: str) -> list[tuple[str, str]]:
        """(kind, id) of what a target names; the plugin itself has its namespace for an id."""
        from .. import hints, registry
        from ..errors import UnknownIdError

        found = registry.default()
        if any(plugin.namespace == target for plugin in found.plugins):
            rows = [row for row in found.rows() if row.id.partition("/")[0] == target]
            return [("plugin", target), *((row.kind, row.id) for row in rows if row.kind in _LEVELS)]
        if ":" in target and target.partition(":")[0] not in registry.KINDS:
            return [("env", target)]
        try:
            return [(row.kind, row.id) for row in found.find_all(target) if row.kind in _LEVELS]
        except UnknownIdError:
            if {"/", ":"} & set(target):
                raise
        hint = hints.unknown_namespace(found.plugins, target)
        raise UnknownIdError(f"there is no plugin {target}: {hint}")

    def report(self, kind: str, id: str) -> Report:
        from . import check, check_plugin

        where = f"{kind} {id}"
        if where not in self._reports:
            # "module:Class" names no kind; a kind before any other id says which of that name is meant.
            target = id if ":" in id else f"{kind}:{id}"
            self._reports[where] = check_plugin(id) if kind == "plugin" else check(target)[0]
        return self._reports[where]


class Level(pytest.Item):
    """What one thing is held to at one level. What fails nothing is told in pytest's summary."""

    def __init__(self, *, checked: tuple[str, str], level: str, **more: Any) -> None:
        super().__init__(**more)
        self.checked, self.level = checked, level

    def runtest(self) -> None:
        assert isinstance(self.parent, Checks)
        ignored = _words(self.config, "--cookbook-ignore")
        report = self.parent.report(*self.checked)
        found = [f for f in report.findings if f.rule.startswith(f"{self.level}.") and f.rule not in ignored]
        notes = [f"{report.where}: {finding}" for finding in found if finding.warns]
        left = {rule: why for rule, why in report.unchecked.items() if rule.startswith(f"{self.level}.")}
        notes += [f"not looked at {rule} {report.where}: {why}" for rule, why in left.items()]
        self.user_properties += [("cookbook-check", note) for note in notes]
        failed = [finding for finding in found if not finding.warns]
        if failed:
            raise Broken(failed)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Broken):
            return "\n".join(str(finding) for finding in excinfo.value.findings)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"cookbook-check::{self.name}"


class Broken(Exception):
    """Rules of one level are broken."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(", ".join(finding.rule for finding in findings))
        self.findings = findings
