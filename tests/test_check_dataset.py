"""The check of datasets: what is shipped passes, and each fault is found and named."""

import itertools
import re

import chz
import pytest

from cookbook import DatasetConfig, Message, registry
from cookbook.testing import RULES, check_dataset

pytestmark = pytest.mark.authors

NUMBER = itertools.count()


def said(i):
    return [Message(role="user", content=f"{i}?"), Message(role="assistant", content=f"{i}!")]


@chz.chz
class Healthy(DatasetConfig):
    n: int = 60
    kinds: tuple[str, ...] = ("a",)

    def rows(self, split):
        at = 0 if split == "train" else self.n
        return [said(i) for i in range(at, at + self.n)]


@chz.chz
class Lazy(Healthy):
    def rows(self, split):
        return (said(i) for i in range(3) if split == "train")


@chz.chz
class Empty(Healthy):
    def rows(self, split):
        return []


@chz.chz
class Raises(Healthy):
    def rows(self, split):
        return {"train": super().rows("train")}[split]


@chz.chz
class NoMessages(Healthy):
    def rows(self, split):
        return [["text"]]


@chz.chz
class NoConversations(Healthy):
    def rows(self, split):
        return ["text"]


@chz.chz
class NoRole(Healthy):
    def rows(self, split):
        return [*super().rows(split)[:7], [{"content": split}]]


@chz.chz
class NoReply(Healthy):
    def rows(self, split):
        return [row[:1] for row in super().rows(split)]


@chz.chz
class Shuffled(Healthy):
    def rows(self, split):
        return [said(f"{split} {next(NUMBER)}") for _ in range(5)]


@chz.chz
class Leaks(Healthy):
    def rows(self, split):
        return [said(i) for i in range(3 if split == "train" else 2, 8)]


@chz.chz
class Needs(Healthy):
    file: str


@chz.chz
class NoJson(Healthy):
    letters: frozenset = frozenset("ab")


FAULTS = {
    Empty: ("L1.dataset-rows", r"rows\('train'\) is empty"),
    Raises: ("L1.dataset-rows", r"rows\('test'\): KeyError"),
    NoMessages: ("L1.dataset-rows", r"row 0 of train, messages\[0\], is 'text', not"),
    NoConversations: ("L1.dataset-rows", "NoConversations.*holds str, not lists of messages"),
    NoRole: ("L1.dataset-rows", r"row 7 of train, messages\[0\]"),
    NoReply: ("L1.dataset-learns", r"row 0 of train has the roles \['user'\]"),
    Shuffled: ("L2.dataset-same", "gave others"),
    Leaks: ("L2.dataset-split", r"5 rows, \[.*3"),
    Needs: ("L1.dataset-builds", "data.file not given"),
    NoJson: ("L1.dataset-json", "frozenset"),
}


def rules(dataset):
    return {finding.rule: finding.example for finding in check_dataset(dataset).findings}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """This file's classes are found by name."""
    import sys

    monkeypatch.setitem(sys.modules, "made_up_datasets", sys.modules[__name__])


@pytest.mark.parametrize("dataset", [Healthy(), Lazy(), "made_up_datasets:Healthy", "made_up_datasets:Lazy"])
def test_a_healthy_dataset_breaks_nothing(dataset):
    report = check_dataset(dataset)
    assert report.findings == [] and report.facts["rows/train"] in (3, 60)
    assert bool(report.unchecked) == (not isinstance(dataset, str))


@pytest.mark.parametrize("dataset", FAULTS, ids=lambda cls: cls.__name__)
def test_one_fault_breaks_one_rule(dataset):
    rule, example = FAULTS[dataset]
    found = rules(f"made_up_datasets:{dataset.__name__}")
    if dataset in (NoConversations, NoMessages):
        found.pop("L2.dataset-split", None)  # the same in both, too
    assert list(found) == [rule] and re.search(example, found[rule]), found


def test_every_rule_of_datasets_is_broken_by_one_of_these():
    assert {rule for rule, _ in FAULTS.values()} == {rule for rule in RULES if ".dataset-" in rule}


@pytest.mark.parametrize("row", registry.default().rows("dataset"), ids=lambda row: row.id)
def test_what_is_shipped_breaks_nothing(row):
    report = check_dataset(row.id)
    assert [str(finding) for finding in report.findings] == [] and report.unchecked == {}
