"""`cookbook eval`: the recipe `core/eval`, its options taken from an environment, a recipe or a run."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chz

from . import configs, launch, registry
from .comparison import Comparison, lines
from .configs import Layer
from .errors import ConfigError
from .evaluate import EvalConfig
from .provenance import provenance
from .registry import Row
from .runs import Run, find_run, new_folder, read_record, read_rows

HELP = """\
usage: cookbook eval ENV | RECIPE [KEY=VALUE ...]

Plays held-out tasks with fixed weights, before training or after, and keeps every transcript in a run folder.
An id that is an environment's and a recipe's means the environment, with the recipe's model, limits and so
on; env:ID leaves them out. load=RUN plays a run's weights: with that run's model, and its options where it
played the same environment. `cookbook run core/eval` is the same with nothing taken from anywhere.

  n=100             tasks, from the first on; 0: all there are
  samples=1         of each task: more give pass@k
  split=test        or train
  temperature=1     0: greedy
  load=RUN          whose weights: a run, RUN@STEP, tinker://...; else the bare model
  --compare RUN     against another evaluation of the same tasks, task by task
  --local           on this machine, without a key
  --json            for programs
  --dry-run         show the first prompt's tokens and what it costs; play nothing
  --help            with an id: every option, its value and where that comes from
  --name NAME       the run's folder (else made from the environment and time)
"""
SWITCHES = ("--local", "--json", "--dry-run", "--help", "-h")
VALUED = ("--compare", "--name")
_OF_A_MODEL = ("model", "backend", "renderer", "renderer_options")


def main(words: list[str], flags: dict[str, Any], argv: list[str]) -> int:
    """Runs the command, its flags taken apart; returns 0. Raises `CookbookError`, one line each, for what the
    user can mend."""
    asked = {"--help", "-h"} & set(flags)
    if not words or "=" in words[0]:
        if asked:
            print(HELP, end="")
            return 0
        raise ConfigError("`cookbook eval` needs an environment or a recipe first; `cookbook list env`")
    row = registry.find("recipe", "core/eval")
    layers = _layers(words[0], configs.from_argv(words[1:]), "--local" in flags)
    if asked:
        print(configs.help_text(EvalConfig, layers, color=sys.stdout.isatty()))
        return 0
    settled = configs.settle(EvalConfig, layers)
    for line in settled.dropped:
        print(f"cookbook: {line}", file=sys.stderr)
    values = settled.values()
    other = Comparison(flags["--compare"], values) if "--compare" in flags else None
    for line in other.notes if other else ():
        print(f"cookbook: {line}", file=sys.stderr)
    if "--dry-run" in flags:
        print(asyncio.run(settled.config.dry_run()))
        return 0
    folder = new_folder(f"eval/{values['env'].replace(':', '-')}", flags.get("--name"))
    launch.start(Run(folder, provenance(row, argv, settled)), settled.config, quiet="--json" in flags)
    compared = other.against(folder) if other else None
    if "--json" in flags:
        print(json.dumps(result(folder) | ({"compare": compared} if compared else {}), ensure_ascii=False))
    elif compared:
        print("\n".join(lines(compared)))
    return 0


def result(folder: Path) -> dict[str, Any]:
    """What an evaluation's folder says, in one object."""
    record, (row, *_) = read_record(folder), read_rows(folder, "evaluations.jsonl")
    facts = {"run": str(folder)} | {"loaded": record.get("loaded", "")}
    facts |= {
        name: record["config"][name] for name in ("env", "model", "split", "seed", "samples", "temperature")
    }
    return facts | {name.removeprefix("eval/"): value for name, value in row.items() if name != "version"}


def _layers(id: str, typed: Layer, local: bool) -> list[Layer]:
    """The recipe, what `--local` lays over it, the loaded run, and what was typed, environment included."""
    env, recipe = _found(id)
    blueprint = launch.blueprint_of(recipe or registry.find("recipe", "core/eval"))
    layers: list[Layer] = [(name, shared(values)) for name, values in configs.layers_of(blueprint)]
    given, own = [key for _, values in layers for key in values], len(layers)
    if local:
        layers.append(("local", shared(launch.local_values(blueprint))))
    if env and "env" in typed[1]:
        raise ConfigError(f"env={typed[1]['env'].value} is given besides {env}; keep one")
    said = [getattr(v["env"], "value", v["env"]) for _, v in [*layers, typed] if "env" in v]
    if "load" in typed[1] and typed[1]["load"].value:
        layers += _loaded(typed[1]["load"].value, env or (said[-1] if said else None))
    layers.append((typed[0], ({"env": env} if env else {}) | dict(typed[1])))
    kept = [key for key in given if not any(key in values for _, values in layers[own:])]
    if env and recipe and kept:
        names = ", ".join(dict.fromkeys(key.split(".")[0] for key in kept))
        which = f"cookbook: plays env:{env} with {names} of recipe:{recipe.id}"
        print(f"{which}; env:{env} leaves that out", file=sys.stderr)
    return layers


def shared(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a layer for another config, the values that an evaluation has too."""
    fields = chz.chz_fields(EvalConfig)
    return {key: value for key, value in values.items() if key.split(".")[0] in fields}


def _found(id: str) -> tuple[str | None, Row | None]:
    """The environment and the recipe of an id, one of them at least."""
    kind, colon, _ = id.rpartition(":")
    if colon and kind not in registry.KINDS:
        return id, None  # my_module:MyEnv
    rows = {row.kind: row for row in registry.default().find_all(id)}
    env, recipe = rows.get("env"), rows.get("recipe")
    if env is None and recipe is None:
        kinds = " and ".join(rows)
        raise ConfigError(f"{id} is a {kinds}, which can't be played; `cookbook list env` shows what can")
    return env.id if env else None, recipe


def _loaded(name: str, env: str | None) -> list[Layer]:
    """What a run says of its model, and of the environment where it played this one."""
    if name.startswith("tinker://"):
        return []
    folder = find_run(name.partition("@")[0])
    config = read_record(folder).get("config", {})
    same = config.get("env") == env or env is None
    kept = {k: v for k, v in shared(config).items() if same or k.split(".")[0] in _OF_A_MODEL}
    for own in ("load", "seed", *(k for k in kept if k.split(".")[0] == "trackers")):
        kept.pop(own, None)
    return [(f"run {folder.name}", kept)]
