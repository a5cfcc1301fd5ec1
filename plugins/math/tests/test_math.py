"""Arithmetic: its problems, its splits, and a grader that reads the answer instead of looking for it."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cookbook.errors import ConfigError
from cookbook_plugin_math.arithmetic import Arithmetic, _Pairs
from cookbook_plugin_math.integer import Integer, parse


def numbers(question):
    """The two numbers of a problem, from its last message."""
    return pair(question.prompt[-1])


def pair(message):
    a, b = message["content"].split(" + ")
    return int(a), int(b)


def examples(question):
    """[(the two numbers, what is answered)] of the worked examples."""
    asked, answered = question.prompt[:-1:2], question.prompt[1:-1:2]
    return [(pair(q), a["content"]) for q, a in zip(asked, answered, strict=True)]


@pytest.mark.parametrize("span", [{}, {"digits": 1}, {"longer_sums": True}])
def test_training_problems_held_out_ones_and_examples_share_no_pair_of_numbers(span):
    env = Arithmetic(**span, examples=8)
    splits = [{frozenset(numbers(q)) for q in env.tasks(split)} for split in ("train", "test")]
    splits.append({frozenset(numbers) for numbers, _ in examples(env.tasks("train")[0])})
    for a, b in itertools.combinations(splits, 2):
        assert a and b and not a & b
    n = 40 if not span else 5 if env.digits == 1 else 90
    assert sum(map(len, splits)) == n * (n + 1) // 2


def test_there_are_200_held_out_problems_or_more():
    assert len(Arithmetic().tasks("test")) >= 200


def test_every_pair_comes_once_whatever_its_order():
    pairs = [frozenset(_Pairs(2, True)[i]) for i in range(len(_Pairs(2, True)))]
    assert len(set(pairs)) == len(pairs) == 90 * 91 // 2
    assert all(min(p) >= 10 and max(p) <= 99 for p in pairs)
    assert 0.4 < sum(a < b for a, b in (_Pairs(2, True)[i] for i in range(1000))) / 1000 < 0.6


def test_sums_have_no_digit_more_than_their_numbers_unless_asked_for():
    short, long = (Arithmetic(digits=3, longer_sums=x).tasks("test") for x in (False, True))
    assert max(q.reference for q in short) < 1000 <= max(q.reference for q in long)


def test_nine_digits_are_as_lazy_as_one():
    tasks = Arithmetic(digits=9, longer_sums=True).tasks("train")
    for i in (0, 10**17, len(tasks) - 1):
        a, b = numbers(tasks[i])
        assert len(str(a)) == len(str(b)) == 9 and tasks[i].reference == a + b


def test_the_reference_is_the_sum_and_the_examples_are_right():
    env = Arithmetic(examples=3)
    for question in (env.tasks(split)[i] for split in ("train", "test") for i in range(20)):
        assert question.reference == sum(numbers(question))
        assert len(examples(question)) == 3
        for numbers_, answer in examples(question):
            assert answer == f"= {sum(numbers_)}"


def test_the_number_of_worked_examples_is_an_option():
    assert examples(Arithmetic(examples=0).tasks("train")[0]) == []
    with pytest.raises(ConfigError, match="examples=9"):
        Arithmetic(examples=9)
    with pytest.raises(ConfigError, match="digits=0: must be from 1 to 9"):
        Arithmetic(digits=0)
    with pytest.raises(ValueError, match="'validation'"):
        Arithmetic().tasks("validation")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42", 42),
        (" 42.\n", 42),
        ("17 + 25 = 42", 42),
        ("17 + 25 = 40 + 2 = 42.", 42),
        ("-7", -7),
        ("1,234", 1234),
        ("", None),
        ("It is 42", None),
        ("42 or 43", None),
        ("not 42 = forty-two", None),
        ("4 2", None),
        ("12,34", None),
        ("42.0", None),
        ("٤٢", None),
        ("=", None),
        ("9" * 5000, None),
        ("1e3", None),
        ("0x2a", None),
    ],
)
def test_an_answer_is_parsed_and_not_looked_for(text, answer):
    assert parse(text) == answer


@given(st.text(alphabet="0123456789+-=,. \n٤", max_size=40))
def test_parsing_never_raises(text):
    assert parse(text) is None or isinstance(parse(text), int)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_only_the_right_sum_is_right(a, wrong):
    grader = Integer()
    assert grader.grade([], {"role": "assistant", "content": f"x = {a}"}, a).correct is True
    grade = grader.grade([], {"role": "assistant", "content": str(wrong)}, a)
    assert grade.correct is (wrong == a) and grade.reward == float(wrong == a)


def test_a_reply_is_graded_by_the_registered_grader():
    env = Arithmetic().tasks("train")[0].table()[0]
    right = sum(numbers(Arithmetic().tasks("train")[0]))
    step = asyncio.run(env.step({"role": "assistant", "content": f"the sum = {right}."}))
    assert step.done and step.correct and step.reward == 1.0
