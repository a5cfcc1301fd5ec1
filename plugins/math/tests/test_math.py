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


@pytest.mark.parametrize("digits", [1, 2])
def test_training_problems_held_out_ones_and_examples_share_no_pair_of_numbers(digits):
    env = Arithmetic(digits=digits)
    splits = [{frozenset(numbers(q)) for q in env.tasks(split)} for split in ("train", "test")]
    used = examples(env.tasks("train")[0])
    splits.append({frozenset(numbers) for numbers, _ in used})
    for a, b in itertools.combinations(splits, 2):
        assert a and b and not a & b
    n = 10**digits - (10 ** (digits - 1) if digits > 1 else 0)
    assert sum(map(len, splits)) <= n * (n + 1) // 2


def test_every_pair_comes_once_whatever_its_order():
    pairs = [frozenset(_Pairs(2)[i]) for i in range(len(_Pairs(2)))]
    assert len(set(pairs)) == len(pairs) == 90 * 91 // 2
    assert all(min(p) >= 10 and max(p) <= 99 for p in pairs)


def test_problems_of_nine_digits_are_as_lazy_as_of_one():
    tasks = Arithmetic(digits=9).tasks("train")
    a, b = numbers(tasks[len(tasks) - 1])
    assert len(str(a)) == len(str(b)) == 9 and tasks[10**16].reference == sum(numbers(tasks[10**16]))


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
    with pytest.raises(ConfigError, match="digits=0"):
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
