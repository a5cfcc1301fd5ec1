"""`cookbook check`: what a plugin, or one of its rows, is held to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from . import hints, registry
from .configs import config_class, from_argv, is_import_string
from .errors import ConfigError, UnknownIdError
from .testing.checks import check
from .testing.rules import RULES, Report
from .testing.subject import build

HELP = """\
usage: cookbook check NAMESPACE | ID | module:Class  [env.KEY=VALUE ...]

Holds a whole plugin (`cookbook check words`), what one id names (`cookbook check words/brief`), or a class
in a file of this folder (`cookbook check my_envs:Brief`) to rules: L0 what can be told without running it,
L1 the protocol, L2 determinism, L3 rewards, L4 cost. Of each rule that is broken it shows the smallest
example, and how to mend it. Exits with 1 where a rule is broken; a warning breaks none.

  env.KEY=VALUE     an option of the environment that is checked
  --ignore RULES    leaves out the findings of these rules: --ignore L3.constant,L2.pickle
  --model MODEL     whose tokens L4 counts: a folder with tokenizer.json, or a hub id; else bytes are counted
  --rules           lists the rules
  --json            for programs
"""
SWITCHES = ("--json", "--rules")
VALUED = ("--ignore", "--model")


def main(words: list[str], flags: dict[str, str]) -> int:
    """Runs the command, its flags taken apart; returns 1 where a rule fails. Raises `CookbookError`, one
    line each, for what the user can mend."""
    if "--rules" in flags:
        print("\n".join(f"{id}{' (warns)' if rule.warns else ''}: {rule.says}" for id, rule in RULES.items()))
        return 0
    if not words or "=" in words[0]:
        raise ConfigError(
            "`cookbook check` takes a namespace, an id or module:Class; `cookbook check --help`"
        )
    values = _values(words[1:])
    _refuse(words[0], values)
    ignore = [rule for rule in flags.get("--ignore", "").split(",") if rule]
    reports = check(words[0], values=values, ignore=ignore, count=_counter(flags.get("--model")))
    if "--json" in flags:
        print(json.dumps([report.as_json() for report in reports], indent=1))
    else:
        print("\n\n".join(text_of(report) for report in reports))
        print("\n" + _verdict(reports))
    return int(any(report.failed for report in reports))


def _values(words: Sequence[str]) -> dict[str, Any]:
    _, values = from_argv(words)
    strangers = [key for key in values if not key.startswith("env.")]
    if strangers:
        raise ConfigError(f"{strangers[0]}=...: the options of an environment look like env.digits=3")
    return {key.removeprefix("env."): value.value for key, value in values.items()}


def _refuse(target: str, values: dict[str, Any]) -> None:
    """What the user can mend, before it looks like a fault of what is checked. Raises `CookbookError`."""
    found = registry.default()
    namespaces = {plugin.namespace for plugin in found.plugins}
    bare = not {"/", ":"} & set(target)
    if is_import_string(target, "env"):
        config_class("env", target)
    elif bare and target not in namespaces and all(row.id != f"core/{target}" for row in found.rows()):
        hint = hints.unknown_namespace(found.plugins, target)
        raise UnknownIdError(f"there is no plugin {target}: {hint}")
    if values and bare and target in namespaces:
        option = f"env.{next(iter(values))}=..."
        raise ConfigError(
            f"{option} is of one environment, and {target} is a namespace: name the environment"
        )
    if values:
        build(target, values)


def _counter(model: str | None) -> Callable[[str], int] | None:
    if model is None:
        return None
    from .rendering import load_tokenizer

    tokenizer = load_tokenizer(model)
    return lambda text: len(tokenizer.encode(text))


def text_of(report: Report) -> str:
    """A report as a person reads it: what was found, what was measured, what couldn't be looked at."""
    fails, warns = (sum(f.warns is kind for f in report.findings) for kind in (False, True))
    counts = [f"{n} {word}" for n, word in ((fails, "failed"), (warns, "warned")) if n]
    lines = [f"{report.where}: {', '.join(counts) or 'ok'}"]
    if report.facts:
        lines.append("  " + "  ".join(f"{name} {_shown(value)}" for name, value in report.facts.items()))
    for finding in report.findings:
        lines += [f"  {line}" for line in str(finding).splitlines()]
    lines += [f"  not looked at: {rule}: {why}" for rule, why in report.unchecked.items()]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(_shown, value))
    if isinstance(value, dict):
        return ",".join(f"{k}={_shown(v)}" for k, v in value.items())
    return repr(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _verdict(reports: Sequence[Report]) -> str:
    failed = sum(report.failed for report in reports)
    if failed:
        return f"{failed} of {len(reports)} failed"
    return f"{len(reports)} checked, none failed"
