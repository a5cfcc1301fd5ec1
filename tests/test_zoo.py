"""`cookbook check` finds each animal's fault, names it, and says nothing of a healthy one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from cookbook.testing import check_env

sys.path.insert(0, str(Path(__file__).parent))
import zoo

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
