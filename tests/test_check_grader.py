"""The check of graders: what is shipped passes, and each fault is found and named."""

import asyncio
import re
import time

import chz
import pytest

from cookbook import Grade, GraderConfig, registry
from cookbook.testing import RULES, check_grader, graders

pytestmark = pytest.mark.authors

PROMPT = "What is 40 + 2?"
CASES = [(PROMPT, "42", "42", "right"), (PROMPT, "41", "42", "wrong"), (PROMPT, "", "42", "wrong")]
COUNTDOWN = {"numbers": [3, 4], "target": 12, "use_all": True}


def right(reply, reference):
    return reply.strip() == str(reference)


@chz.chz
class Exact(GraderConfig):
    """Healthy, but for what `how` does first."""

    how: object = None

    def grade(self, prompt, reply, reference):
        text = reply["content"]
        told = self.how(text, reference) if self.how else None
        return Grade(right(text, reference)) if told is None else told


class Later:
    async def grade(self, prompt, reply, reference):
        await asyncio.sleep(0)
        return Grade(right(reply["content"], reference))


def rules(grader, cases=()):
    return {finding.rule: finding.example for finding in check_grader(grader, cases).findings}


@pytest.mark.parametrize("grader", [Exact(), Later()], ids=["exact", "async"])
@pytest.mark.parametrize("cases", [(), CASES], ids=["junk", "cases"])
def test_a_healthy_grader_breaks_nothing(grader, cases):
    report = check_grader(grader, cases)
    assert report.findings == [] and report.unchecked == {} and report.facts["grade/s"] < 1


def test_other_verdicts_and_rewards_are_healthy_too():
    assert rules(Exact(how=lambda text, _: None if text else Grade("undecided"))) == {}
    assert rules(Exact(how=lambda text, _: Grade(False, -0.5) if not text else None)) == {}
    assert rules(Exact(how=lambda text, ref: Grade(None, 0.3) if text != ref else None), CASES[:1]) == {}


def slow(text, reference):
    time.sleep(1.01 if text == "asdf qwer zxcv" else 0)


def endless(text, reference):
    while text == "asdf qwer zxcv":
        pass


def swallows(text, reference):
    try:
        endless(text, reference)
    except Exception:
        return Grade(False)


FAULTS = {
    "raises on nothing": (lambda text, _: text[0] and None, "L3.grader-raises", "nothing.*IndexError"),
    "raises on half a character": (
        lambda text, _: Grade(text.encode() == b"42"),
        "L3.grader-raises",
        "half a character, reference '42': UnicodeEncodeError",
    ),
    "raises on many digits": (
        lambda text, _: number(text),
        "L3.grader-raises",
        "100,000 digits.*ValueError",
    ),
    "exits": (lambda text, _: None if text else exit("no"), "L3.grader-raises", "SystemExit"),
    "runs the reply": (
        lambda text, _: eval(text) and None if "__import__" in text else None,
        "L3.grader-raises",
        "code, .*NameError|code.*KeyError",
    ),
    "recurs": (
        lambda text, _: recur(text) if text[:1] == "(" else None,
        "L3.grader-raises",
        "RecursionError",
    ),
    "hangs": (endless, "L3.grader-hangs", "letters, reference '42': not over after 1 s"),
    "hangs and swallows errors": (swallows, "L3.grader-hangs", "not over after 1 s"),
    "slow": (slow, "L3.grader-slow", "letters, reference '42': 1.0 s"),
    "a bool": (lambda text, ref: right(text, ref), "L1.grader-type", "False, a bool"),
    "a number": (lambda text, _: 0.5, "L1.grader-type", "0.5, a float"),
    "nan": (lambda text, _: None if text else Grade(False, float("nan")), "L3.grader-nan", "reward is nan"),
    "infinity": (lambda text, _: Grade(False, float("inf")), "L3.grader-nan", "reward is inf"),
    "nothing is right": (lambda text, ref: Grade(ref.startswith(text)), "L3.grader-junk", "nothing, ''"),
    "white space is right": (lambda text, _: Grade(text.isspace()), "L3.grader-junk", "white space"),
    "the prompt is right": (lambda text, _: Grade("2" in text), "L3.grader-junk", "the prompt"),
    "all is right": (lambda text, _: Grade(True), "L3.grader-junk", "nothing"),
}


def number(text):
    if text.isascii() and text.isdigit():
        int(text)


def recur(text):
    return recur(text[1:]) if text[:1] == "(" else None


@pytest.mark.parametrize("how, rule, example", FAULTS.values(), ids=FAULTS)
def test_one_fault_breaks_one_rule(how, rule, example, monkeypatch):
    if rule == "L3.grader-hangs":
        monkeypatch.setattr(graders, "PATIENCE_S", 1)
    found = rules(Exact(how=how))
    assert list(found) == [rule] and re.search(example, found[rule]), found


def test_a_case_that_comes_out_otherwise_is_named():
    cases = [*CASES, (PROMPT, "forty-two", "42", "right")]
    told = "'forty-two', reference '42': wrong, not right"
    assert rules(Exact(), cases) == {"L3.grader-verdict": told}
    assert rules(Exact(how=lambda text, _: Grade("undecided")), CASES[:1]) == {
        "L3.grader-verdict": "'42', reference '42': undecided, not right"
    }


def test_only_a_slow_grader_fails_nothing():
    assert not check_grader(Exact(how=slow)).failed and check_grader(Exact(how=lambda t, r: 1)).failed


def test_a_grader_that_takes_other_references_needs_a_case():
    grader = Exact(how=lambda text, reference: reference["a"] and None)
    assert set(check_grader(grader).unchecked) == set(graders._JUNK_RULES)
    cases = [(PROMPT, "{'a': 1}", {"a": 1}, "right")]
    assert check_grader(grader, cases).findings == [] and check_grader(grader, cases).unchecked == {}


def test_an_id_that_is_not_there_or_does_not_build_is_a_finding(monkeypatch):
    assert "no grader math/nothing" in rules("math/nothing")["L1.grader-builds"]


def test_every_rule_of_graders_is_broken_by_one_of_these():
    broken = {rule for _, rule, _ in FAULTS.values()} | {"L3.grader-verdict", "L1.grader-builds"}
    assert broken == {rule for rule in RULES if ".grader-" in rule}


SHIPPED = {"math/countdown": [("?", "3 * 4", COUNTDOWN, "right"), ("?", "3 + 4", COUNTDOWN, "wrong")]}


@pytest.mark.parametrize("row", registry.default().rows("grader"), ids=lambda row: row.id)
def test_what_is_shipped_breaks_nothing(row):
    if "math-verify" in row.needs:
        pytest.importorskip("math_verify")
    report = check_grader(row.id, SHIPPED.get(row.id, ()))
    assert [str(finding) for finding in report.findings] == [] and report.unchecked == {}
