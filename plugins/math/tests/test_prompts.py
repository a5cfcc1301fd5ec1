"""What is asked of a problem and what is read of a reply; what a reply loses out of form; the recipes."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cookbook import Grade
from cookbook.configs import from_argv, layers_of, settle
from cookbook.errors import ConfigError, EnvError
from cookbook.registry import find
from cookbook.rl import RLConfig
from cookbook_plugin_math.extraction import boxed
from cookbook_plugin_math.in_form import InForm
from cookbook_plugin_math.integer import Integer
from cookbook_plugin_math.problems import normal
from cookbook_plugin_math.sets import GSM8K, DeepMath, Hendrycks, Polaris, after_hashes


def env(cls, **options):
    return cls(source="sample", grader=Integer(), **options)


# --- Answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("it is \\boxed{42}.", "42"),
        ("\\boxed{1} and then \\boxed{2}", "2"),
        ("$\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
        ("\\boxed {3}", "3"),
        ("\\fbox{7}", "7"),
        ("our answer is $\\boxed 2$.", "2"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{[0, \\}}", "[0, \\}"),
        ("a stray } and { before \\boxed{4} and } after", "4"),
        ("\\boxed{5} but \\boxed{6", "5"),
        ("\\boxed{}", None),
        ("\\boxed{ }", None),
        ("\\boxed{", None),
        ("\\boxed", None),
        ("42", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_box_whose_braces_match(text, answer):
    assert boxed(text) == answer


@given(st.text(alphabet="\\boxed{} 1$", max_size=60))
def test_looking_for_a_box_never_raises(text):
    assert boxed(text) is None or boxed(text).strip()


def test_looking_for_a_box_in_a_long_hostile_text_ends():
    for unit in ("\\boxed{", "{", "}", "\\boxed ", "\\", "\\boxed{}"):
        assert boxed(unit * 200_000) in (None, "\\")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a\n#### 72", "72"),
        ("#### 1,234,567", "1234567"),
        ("#### 1\n#### -2 ", "-2"),
        ("72", None),
        ("####", None),
    ],
)
def test_a_word_problems_answer_is_what_follows_the_last_hashes(text, answer):
    assert after_hashes(text) == answer


# --- Prompt and reward ----------------------------------------------------------------------------------


def test_the_prompt_is_the_problem_and_a_suffix():
    (message,) = env(GSM8K, suffix=" Answer:").tasks("train")[0].prompt
    assert message["role"] == "user" and message["content"].endswith("? Answer:")


@pytest.mark.parametrize("cls", [GSM8K, Hendrycks, Polaris, DeepMath])
def test_worked_examples_are_earlier_turns_in_the_asked_form(cls):
    worked = env(cls, few_shot=4)
    prompt = worked.tasks("train")[0].prompt
    assert [m["role"] for m in prompt] == ["user", "assistant"] * 4 + ["user"]
    assert all(boxed(m["content"]) for m in prompt[1::2])
    assert all(m["content"].endswith(worked.suffix) for m in prompt[::2])
    shown = [normal(message["content"]) for message in prompt[:-1:2]]
    asked = [normal(q.prompt[-1]["content"]) for split in ("train", "test") for q in worked.tasks(split)]
    assert not set(shown) & set(asked)


@pytest.mark.parametrize("option", [{"few_shot": 5}, {"held_out": 1.0}, {"format_reward": -0.1}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))}="):
        env(GSM8K, **option)


class Says:
    def grade(self, prompt, reply, reference):
        return Grade(reference)


def reward(verdict, text, grader=None):
    grade = InForm(grader or Says(), 0.1).grade([], {"role": "assistant", "content": text}, verdict)
    grade = asyncio.run(grade)
    return grade.verdict, grade.reward


def test_a_reply_out_of_form_loses_of_its_reward_and_keeps_its_verdict():
    assert reward(True, "\\boxed{1}") == ("right", 1.0) and reward(False, "\\boxed{1}") == ("wrong", 0.0)
    assert reward(True, "1") == ("right", 0.9) and reward(False, "1") == ("wrong", -0.1)
    assert reward("undecided", "1") == ("undecided", None)


def test_a_grader_in_form_may_be_async():
    class Later:
        async def grade(self, prompt, reply, reference):
            return Grade(reference)

    assert reward(True, "1", Later()) == ("right", 0.9)


def test_a_question_is_graded_in_form():
    question = env(GSM8K, format_reward=0.25).tasks("train")[0]
    step = asyncio.run(question.table()[0].step({"role": "assistant", "content": f"= {question.reference}"}))
    assert step.correct and step.reward == 0.75


def test_an_integer_is_compared_with_a_reference_that_is_a_text():
    reply = {"role": "assistant", "content": "x = 42"}
    assert Integer().grade([], reply, "42").correct and not Integer().grade([], reply, "43").correct
    with pytest.raises(EnvError, match="1/2"):
        Integer().grade([], reply, "1/2")


# --- Recipes --------------------------------------------------------------------------------------------

SETTINGS = {
    "gsm8k": (64, 32, 8e-5, 1024, 220),
    "math": (16, 64, 2e-5, 512, 180),
    "polaris": (16, 64, 2e-5, 8192, 180),
    "deepmath": (16, 64, 2e-5, 8192, 180),
}


@pytest.mark.parametrize("name", [*SETTINGS, "countdown"])
def test_a_recipe_builds_with_and_without_local(name):
    blueprint = find("recipe", f"math/{name}").load()()
    config = settle(RLConfig, layers_of(blueprint)).config
    assert config.model == "Qwen/Qwen3.5-9B" and config.env.format_reward == 0.1
    if name in SETTINGS:
        assert SETTINGS[name] == (
            config.group_size,
            config.groups_per_step,
            config.lr,
            config.max_tokens,
            config.steps,
        )
    local = settle(RLConfig, [*layers_of(blueprint), ("local", blueprint.local)]).config
    assert len(local.env.tasks("train")) >= 40 and len(local.env.tasks("test")) >= 6
    assert local.max_tokens <= 64


def test_a_grader_is_chosen_by_id_and_has_options_of_its_own():
    argv = ["env=math/gsm8k", "env.source=sample", "env.grader=math/integer", "model=m"]
    settled = settle(RLConfig, [from_argv(argv)])
    assert settled.ids["env.grader"] == ("grader", "math/integer")
    assert settle(RLConfig, [("again", settled.values())]).config == settled.config
