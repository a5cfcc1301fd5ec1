"""The check of recipes: what is shipped passes, and each fault is found and named."""

import re

import chz
import pytest

from cookbook import EnvConfig, preset, registry
from cookbook.registry import Row
from cookbook.rl import RLConfig
from cookbook.sl import SLConfig
from cookbook.testing import RULES, check_recipe

pytestmark = pytest.mark.authors


@chz.chz
class Sums(EnvConfig):
    digits: int = 2
    letters: object = None

    def tasks(self, split):
        return []


ENV = "made_up_recipes:Sums"


def rl(**values):
    return lambda: preset(RLConfig, name="made/up", **values)


def raises():
    raise KeyError("model")


HEALTHY = {
    "all given": rl(env=ENV, model="m", **{"env.digits": 3}),
    "all left to the user": rl(lr=1e-4),
    "data left to the user": lambda: preset(SLConfig, name="made/up"),
    "local": rl(env=ENV, local={"env.digits": 1, "steps": 2}),
    "a plain blueprint": lambda: chz.Blueprint(RLConfig).apply({"lr": 1e-3}, layer_name="recipe"),
}
FAULTS = {
    "raises": (raises, "L1.recipe-builds", "KeyError: 'model'"),
    "no blueprint": (dict, "L1.recipe-builds", "gave dict, not a chz.Blueprint"),
    "an option there isn't": (rl(learning_rate=1), "L1.recipe-settles", "no option 'learning_rate'"),
    "an underscore": (rl(env=ENV, env_digits=1), "L1.recipe-settles", r'\*\*\{"env.digits": ...\}'),
    "an env there isn't": (rl(env="math/nothing"), "L1.recipe-settles", "there is no env math/nothing"),
    "a value of another type": (rl(steps="many"), "L1.recipe-settles", "steps"),
    "a value that is refused": (rl(lr=7.0), "L1.recipe-settles", r"lr=7.0: must be in \[0, 1\)"),
    "an option of an env that isn't named": (
        rl(**{"env.digits": 3}),
        "L1.recipe-settles",
        "there is no option 'env.digits'",
    ),
    "a local option there isn't": (
        rl(env=ENV, local={"env.digit": 3}),
        "L1.recipe-local",
        "there is no option 'env.digit'; did you mean 'env.digits'",
    ),
    "a local value that is refused": (rl(local={"lr": 7.0}), "L1.recipe-local", "lr=7.0"),
    "no JSON": (rl(env=ENV, **{"env.letters": frozenset("a")}), "L1.recipe-json", "frozenset"),
}


@pytest.fixture
def check(monkeypatch):
    """`check(make)`: the report of a recipe that this function makes."""
    import sys

    monkeypatch.setitem(sys.modules, "made_up_recipes", sys.modules[__name__])
    find = registry.find

    def check(make):
        monkeypatch.setattr(sys.modules[__name__], "made", make, raising=False)
        row = Row("recipe", "made/up", "made_up_recipes:made", "x", {}, (), "dist", "1")
        monkeypatch.setattr(registry, "find", lambda kind, id: row if id == "made/up" else find(kind, id))
        return check_recipe("made/up")

    return check


@pytest.mark.parametrize("make", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_recipe_breaks_nothing(check, make):
    report = check(make)
    assert report.findings == [] and report.unchecked == {}


@pytest.mark.parametrize("make, rule, example", FAULTS.values(), ids=FAULTS)
def test_one_fault_breaks_one_rule(check, make, rule, example):
    found = {finding.rule: finding.example for finding in check(make).findings}
    assert list(found) == [rule] and re.search(example, found[rule]), found


def test_every_rule_of_recipes_is_broken_by_one_of_these():
    assert {rule for _, rule, _ in FAULTS.values()} == {rule for rule in RULES if ".recipe-" in rule}


def test_a_recipe_that_is_not_there_is_a_finding():
    assert check_recipe("math/nothing").findings[0].rule == "L1.recipe-builds"


def test_without_the_local_engine_what_local_needs_it_for_is_not_looked_at(check, monkeypatch):
    from cookbook.errors import UnknownIdError

    find = registry.find

    def gone(kind, id):
        if id == "local/torch":
            raise UnknownIdError("cookbook-plugin-local isn't installed")
        return find(kind, id)

    monkeypatch.setattr(registry, "find", gone)
    report = check_recipe("core/rl")
    assert not report.failed and "isn't installed" in report.unchecked["L1.recipe-local"]


@pytest.mark.parametrize("row", registry.default().rows("recipe"), ids=lambda row: row.id)
def test_what_is_shipped_breaks_nothing(row):
    report = check_recipe(row.id)
    assert [str(finding) for finding in report.findings] == [] and report.unchecked == {}
