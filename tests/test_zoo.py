"""`cookbook check` finds each animal's fault, names it, and says nothing of a healthy one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from cookbook import registry
from cookbook.testing import RULES, check_env

sys.path.insert(0, str(Path(__file__).parent))
import zoo

pytestmark = pytest.mark.authors

HERE = str(Path(__file__).parent)

for _part in ("protocol", "chance", "rewards", "scorers", "healthy"):
    importlib.import_module(f"zoo.{_part}")


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Where a child process finds the animals too."""
    monkeypatch.chdir(HERE)


def found(animal: zoo.Animal):
    return check_env(animal.id if animal.by_id else animal.env(), patience_s=animal.patience_s)


@pytest.mark.parametrize("animal", zoo.FAULTY.values(), ids=zoo.FAULTY)
def test_a_fault_is_found_and_named(animal):
    report = found(animal)
    told = {finding.rule: finding.example for finding in report.findings}
    assert set(told) == animal.rules, report.findings
    assert animal.says in " ".join(told.values())


@pytest.mark.parametrize("animal", zoo.HEALTHY.values(), ids=zoo.HEALTHY)
def test_a_healthy_one_breaks_nothing(animal):
    assert [str(finding) for finding in found(animal).findings] == []


ELSEWHERE = {"L1.grader-", "L1.renderer-", "L1.dataset-", "L1.recipe-", "L1.backend-", "L3.grader-",
             "L2.dataset-", "L2.backend-", "L0."}  # fmt: skip
"""Rules that tests/test_check_*.py break, each file all of its own."""


def test_every_rule_of_environments_is_broken_by_an_animal():
    broken = {rule for animal in zoo.FAULTY.values() for rule in animal.rules}
    assert broken == {rule for rule in RULES if not rule.startswith(tuple(ELSEWHERE))}
    assert len(zoo.FAULTY) >= 25 and len(zoo.HEALTHY) >= 20


SHIPPED = [row.id for row in registry.default().rows("env")]


@pytest.mark.parametrize("id", SHIPPED)
def test_what_is_shipped_breaks_nothing(id):
    report = check_env(id)
    assert [str(finding) for finding in report.findings] == []


@pytest.mark.parametrize("id", ["multi_turn:Guessing", "two_seats:Nim"])
def test_the_examples_break_nothing(id, monkeypatch):
    monkeypatch.chdir(Path(HERE).parent / "examples")
    assert check_env(id).findings == []
