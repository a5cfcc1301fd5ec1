"""L1 of a recipe: that its values build a config, with `--local` and without."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import chz

from .. import registry
from ..configs import Layer, layers_of, settle
from ..errors import CookbookError, UnknownIdError
from ..kinds import DatasetConfig, EnvConfig
from ..launch import blueprint_of, local_values
from ..types import Task
from .limits import TookTooLong, deadline
from .rules import Report

PATIENCE_S = 60.0
_FAULTS = (Exception, SystemExit, TookTooLong)


@chz.chz
class AnyEnv(EnvConfig):
    """Stands for the environment that a recipe leaves to the user."""

    def tasks(self, split: str) -> Sequence[Task]:
        return []


@chz.chz
class AnyData(DatasetConfig):
    """Stands for the dataset that a recipe leaves to the user."""

    def rows(self, split: str) -> Sequence[Any]:
        return []


_LEFT = {"model": "any", "env": f"{__name__}:AnyEnv", "data": f"{__name__}:AnyData"}
"""What a recipe may leave to the user, and what stands for it here."""


def check_recipe(id: str) -> Report:
    """Builds a recipe's config, trains nothing. Where it leaves model=, env= or data= to the user, something
    stands for them."""
    report = Report(f"recipe {id}")
    try:
        with deadline(PATIENCE_S):
            blueprint = blueprint_of(registry.find("recipe", id))
    except _FAULTS as error:
        report.find("L1.recipe-builds", _told(error))
        return report
    own = layers_of(blueprint)
    fields = chz.chz_fields(blueprint.target)
    left = {name: value for name, value in _LEFT.items() if name in fields}
    layers: list[Layer] = [("stand-ins", left), *own]
    values = _settled(blueprint.target, layers, "L1.recipe-settles", report)
    if values is not None:
        _survives_json(blueprint.target, values, report)
    try:
        local = local_values(blueprint)
    except UnknownIdError as error:
        report.unchecked["L1.recipe-local"] = str(error)
        return report
    if values is not None:
        _settled(blueprint.target, [*layers, ("local", local)], "L1.recipe-local", report)
    return report


def _settled(target: type, layers: Sequence[Layer], rule: str, report: Report) -> dict[str, Any] | None:
    """The values of the whole config; None where it doesn't come about."""
    try:
        with deadline(PATIENCE_S):
            return settle(target, layers).values()
    except _FAULTS as error:
        report.find(rule, _told(error))
        return None


def _survives_json(target: type, values: dict[str, Any], report: Report) -> None:
    """As a run's record keeps them, and `cookbook resume` takes them from there."""
    try:
        kept = json.loads(json.dumps(values, allow_nan=False))
        again = settle(target, [("check", kept)]).values()
        if again != values:
            changed = [name for name in values if again.get(name) != values[name]]
            report.find("L1.recipe-json", f"{', '.join(changed)} came back as something else")
    except _FAULTS as error:
        report.find("L1.recipe-json", _told(error))


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, CookbookError) else f"{type(error).__name__}: {error}"
