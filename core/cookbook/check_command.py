"""`cookbook check`: what a plugin, or one of its rows, is held to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from .configs import from_argv
from .errors import ConfigError
from .testing.checks import check
from .testing.rules import RULES, Report

HELP = """\
usage: cookbook check NAMESPACE | ID | module:Class  [env.KEY=VALUE ...]

Holds a plugin, or one of its rows, to the rules of levels L0 to L4: what can be told without running it, the
protocol, determinism, rewards, cost. Of each rule that is broken it shows the smallest example, and how to
mend it. Exits with 1 where a rule fails; a warning fails nothing.

  env.KEY=VALUE     an option of the environment that is checked
  --ignore RULES    leaves out the findings of these rules, L3.constant,L2.pickle
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
    ignore = [rule for rule in flags.get("--ignore", "").split(",") if rule]
    reports = check(words[0], values=_values(words[1:]), ignore=ignore, count=_counter(flags.get("--model")))
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
