r"""Where a reply's answer is found."""

import time

import pytest

from cookbook_plugin_math.extraction import extract


@pytest.mark.parametrize(
    "text, answer, rule",
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}", "box"),
        (r"\boxed{1} or rather \boxed{2}", "2", "box"),
        (r"\fbox{7}", "7", "box"),
        (r"\boxed 7 it is", "7", "box"),
        (r"first \boxed{3}, then \boxed{4", "3", "box"),
        (r"} a stray brace { and \boxed{\{1, 2\}} and } more {", r"\{1, 2\}", "box"),
        (r"<think>\boxed{1}</think> \boxed{2}", "2", "box"),
        (r"\boxed{ }", "", "none"),
        ("I think <answer> 12 </answer>", "12", "tag"),
        ("#### 10\nbut then\n#### 1,234\n", "1,234", "marker"),
        ("The answer is $x^2$. I hope it is correct.", "x^2", "phrase"),
        ("**Answer:** 42", "42", "phrase"),
        ("42 apples were given, so the answer is 7.", "7", "phrase"),
        ("The correct option is (B).", "(B)", "phrase"),
        (r"Answer \[ 9 \]", "9", "phrase"),
        ("We add them.\nTherefore, the total number of eggs is 17.", "17", "last line"),
        (r"The pair that solves $x + y = 13$ is \((7, 6)\).", "(7, 6)", "last line"),
        ("Work.\nThus x = 3/4", "x = 3/4", "last line"),
        ("Work.\nTotal cost: 3 * 4 = 12", "3 * 4 = 12", "last line"),
        ("Thus $f(x) = 2x + 1$ for all real $x$.", "f(x) = 2x + 1", "last line"),
        ("x = 3/4", "x = 3/4", "whole"),
        ("12 and 13", "12 and 13", "whole"),
        ("The game ends with 3.<|im_end|>", "3", "last line"),
        ("", "", "none"),
    ],
)
def test_an_answer_is_found_by_the_first_rule_that_fits(text, answer, rule):
    assert extract(text) == (answer, rule)


@pytest.mark.parametrize(
    "unit", [r"\boxed{", r"\boxed{1}", "{", "}", "$", r"\(", r"\[", "answer is ", "#### ", "1 "]
)
def test_a_hundred_thousand_characters_of_anything_take_no_time(unit):
    text = unit * (100_000 // len(unit))
    begun = time.thread_time()
    extract(text)
    extract(text + "x")
    assert time.thread_time() - begun < 2  # seconds; a quadratic scan takes minutes
