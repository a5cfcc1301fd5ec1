"""Countdown: problems from an index alone, and a grader that computes what it can read and runs nothing."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cookbook.errors import ConfigError
from cookbook_plugin_math.countdown import Countdown, CountdownGrader, answer, make
from cookbook_plugin_math.expression import LONGEST, ExpressionError, evaluate


def verdict(text, numbers=(3, 4, 5), target=35, use_all=True):
    reference = {"numbers": list(numbers), "target": target, "use_all": use_all}
    return CountdownGrader().grade([], {"role": "assistant", "content": text}, reference)


SPANS = [
    {},
    {"numbers": 2, "largest": 10, "operations": "+"},
    {"numbers": 6, "largest": 999, "operations": "-"},
]


@pytest.mark.parametrize("span", SPANS)
def test_every_problem_has_a_solution_that_the_grader_takes(span):
    env = Countdown(**span)
    for split in ("train", "test"):
        for i in range(100):
            made, question = make(env, split, i), env.tasks(split)[i]
            assert question.reference == {"numbers": made.numbers, "target": made.target, "use_all": True}
            assert all(1 <= n <= env.largest for n in made.numbers) and len(made.numbers) == env.numbers
            assert 1 <= made.target <= 999 and made.target not in made.numbers
            step = question.table()[0].step({"role": "assistant", "content": f"\\boxed{{{made.solution}}}"})
            assert asyncio.run(step).correct


@pytest.mark.parametrize("span", SPANS)
def test_no_set_of_numbers_is_in_two_of_training_test_and_examples(span):
    env = Countdown(**span)
    parts = [
        {tuple(sorted(make(env, split, i).numbers)) for i in range(300)}
        for split in ("train", "test", "example")
    ]
    assert all(parts) and not any(a & b for a, b in ((parts[0], parts[1]), (parts[0], parts[2]), parts[1:]))


def test_a_problem_depends_on_its_index_alone():
    tasks = Countdown().tasks("train")
    late = tasks[len(tasks) - 1].prompt
    assert [tasks[i].prompt for i in (5, 3)] == [Countdown().tasks("train")[i].prompt for i in (5, 3)]
    assert tasks[len(tasks) - 1].prompt == late and len(Countdown().tasks("test")) == 1000
    with pytest.raises(IndexError):
        tasks[len(tasks)]


def test_operations_say_what_problems_are_made_with():
    env = Countdown(operations="+-")
    assert all(set(make(env, "train", i).solution) <= set("0123456789 ()+-") for i in range(100))


def test_worked_examples_are_right_and_in_the_asked_form():
    prompt = Countdown(few_shot=3).tasks("test")[0].prompt
    assert [m["role"] for m in prompt] == ["user", "assistant"] * 3 + ["user"]
    made = [make(Countdown(few_shot=3), "example", i) for i in range(3)]
    for example, reply in zip(made, prompt[1::2], strict=True):
        assert verdict(reply["content"], example.numbers, example.target).correct


@pytest.mark.parametrize(
    "option",
    [
        {"numbers": 1},
        {"numbers": 7},
        {"largest": 9},
        {"operations": "^"},
        {"operations": ""},
        {"few_shot": 9},
    ],
)
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))}="):
        Countdown(**option)


def test_options_that_make_no_problem_are_one_line():
    with pytest.raises(ConfigError, match="operations=/ makes no problem of numbers=6, largest=50"):
        Countdown(numbers=6, operations="/").tasks("train")[0]


@pytest.mark.parametrize(
    "text",
    [
        "(3 + 4) * 5",
        "\\boxed{(3 + 4) * 5}",
        "\\boxed{(3+4)*5 = 35}",
        "I try 5 * 3 = 15.\nThen: (4+3)*5 = 35.",
        "Answer: 5*(3+4)",
        "x = (3+4)*5",
        "35 = (3 + 4) * 5",
        "$\\left(3 + 4\\right) \\times 5$",
        "\\boxed{5 \\cdot (3+4)}",
        "(3+4)\u00d75",
        "5 / \\frac{3}{3} is not it\n(3 + 4)·5",
    ],
)
def test_a_right_expression_is_found_where_replies_put_it(text):
    assert verdict(text).correct, verdict(text).detail


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("35", "35 not given"),
        ("\\boxed{35}", "35 not given"),
        ("7 * 5", "7 not given"),
        ("3 * 4 * 5", "it makes 60"),
        ("5 * 4 + 5 * 3", "5 not given, or not so often"),
        ("5 * 4", "3 not used"),
        ("(3 + 4) 5", "unexpected"),
        ("(3 + 4) * 5 or so", "unexpected"),
        ("(3 + 4) * 5; 1", "unexpected"),
        ("34 + 5 - 4", "34 not given"),
        ("3 4 + 5", "unexpected"),
        ("03 + 4 * 5", "unexpected"),
        ("3 ** 4 * 5", "unexpected"),
        ("3 // 4 * 5", "unexpected"),
        ("-3 + 4 * 5", "unexpected"),
        ("(3 + 4", "breaks off"),
        ("3 + 4) * 5", "unexpected"),
        ("5 / (4 - 4) + 3", "divides by zero"),
        ("\\frac{5}{4 - 4}", "divides by zero"),
        ("", "breaks off"),
        ("=", "breaks off"),
        ("\\boxed{}", "unexpected"),
        ("\u0663 + \u0664 * \u0665", "unexpected"),
        ("3e4 + 5", "unexpected"),
        ("0x3 + 4 + 5", "unexpected"),
        ("3.0 + 4 + 5", "unexpected"),
        ("3_0 + 4 + 5", "unexpected"),
        ("__import__('os').system('true')", "unexpected"),
        ("(lambda: 35)()", "unexpected"),
        ("(3 + 4) * 5 if 1 else 0", "unexpected"),
        ("9" * 5000, "longer than"),
        ("(" * 5000 + "3" + ")" * 5000, "longer than"),
        ("(" * 90 + "3" + ")" * 90, "brackets within each other"),
        ("9999999 + 1", "unexpected"),
        ("$" * 100_000 + "a", "unexpected"),
    ],
)
def test_what_isnt_a_right_expression_is_wrong_and_says_why(text, why):
    grade = verdict(text)
    assert grade.verdict == "wrong" and why in grade.detail


def test_some_numbers_are_enough_where_not_all_must_be_used():
    assert verdict("5 * 4", target=20, use_all=False).correct
    assert not verdict("5 * 4", target=20).correct
    assert not verdict("5 * 5 - 5", target=20, use_all=False).correct


def test_fractions_on_the_way_are_exact():
    assert verdict("8 / (3 - 8 / 3)", (8, 3, 8, 3), 24).correct
    assert evaluate("1 / 3 + 1 / 3 + 1 / 3") == (1, [1, 3, 1, 3, 1, 3])
    assert evaluate("\\frac{1}{3} * 2 - 1")[0] == Fraction(-1, 3)


def test_operations_bind_as_usual_and_from_the_left():
    for text in ("2 + 3 * 4", "20 - 4 - 3", "24 / 4 / 3", "24 / 4 * 3", "2 * (3 + 4) - 1"):
        assert evaluate(text)[0] == eval(text)


@given(st.text(alphabet="0123456789+-*/() .=\\boxed{}frac$:", max_size=LONGEST + 20))
def test_reading_a_reply_never_raises(text):
    assert verdict(text).verdict in ("right", "wrong")


@given(st.lists(st.integers(1, 99), min_size=1, max_size=6), st.data())
def test_an_expression_has_pythons_value(numbers, data):
    text = str(numbers[0])
    for n in numbers[1:]:
        text = data.draw(st.sampled_from([f"{text} {op} {n}" for op in "+-*"] + [f"({text}) * {n}"]))
    value, used = evaluate(text)
    assert value == eval(text) and sorted(used) == sorted(numbers)


def test_what_isnt_an_expression_is_an_error_of_its_own():
    with pytest.raises(ExpressionError):
        evaluate("1 +")
    assert answer("", 1) == "" and answer("a = b = 7", 7) == "b"


def test_format_reward_is_lost_without_a_box():
    env = Countdown(format_reward=0.1)
    made = make(env, "train", 0)
    said = {"role": "assistant", "content": made.solution}
    step = asyncio.run(env.tasks("train")[0].table()[0].step(said))
    assert step.correct and step.reward == 0.9
