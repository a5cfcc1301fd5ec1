"""Generated problems: which there are, how the splits keep apart, and graders that nothing fools."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import time

import pytest

from cookbook import cli
from cookbook.errors import ConfigError
from cookbook_plugin_reasoning.gym import Gym, held_out
from cookbook_plugin_reasoning.names import FAMILIES, NOTES, REFUSED

SLOW = set(
    "advanced_geometry arc_agi countdown figlet_font futoshiki game_of_life game_of_life_halting jugs "
    "sokoban intermediate_integration knight_swap mahjong_puzzle polynomial_equations bf puzzle24 rearc "
    "polynomial_multiplication quantum_lock rubiks_cube simple_equations simple_integration sudoku "
    "zebra_puzzles".split()
)
VERY_SLOW = set(
    "futoshiki knight_swap sokoban puzzle24 zebra_puzzles".split()
)  # fewer problems are looked at
PROBLEMS = int(os.environ.get("REASONING_PROBLEMS", "15"))  # of a family; `make test-reasoning` takes 60
each_family = pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow_family if f in SLOW else ()) for f in FAMILIES]
)
GARBAGE = [
    *"banana 0 1 -1 0.5 True False true yes no nan inf NaN null () [] {} [[]]".split(),
    *"A x Q 0/1 1/0 6*4*1*1 on".split(),
    *("[NaN, NaN, NaN]", "infeasible", "\x00"),
]
HOSTILE = [
    "__import__('os').system('touch {canary}')",
    "[__import__('os').system('touch {canary}')]",
    "(lambda: open('{canary}', 'w'))()",
    "9**9**9**9",
    "x**9**9**9 + C",
    "factorial(99999999)",
    "1e999999999",
    "1/1e-999999999",
    "R999999999",
    "A+999999999",
    "[" * 5000,
    "(" * 5000,
    "-" * 9000 + "1",
    "9" * 9000,
    "9" * 100_000,
    "a b " * 2500,
    "1+" * 4000 + "1",
    "(1+1)*" * 1500 + "1",
    "\ud800",
    "{{}}",
]


def problems(family, split="train", n=PROBLEMS, **options):
    tasks = Gym(dataset=family, answer="reply", **options).tasks(split)
    return [tasks[i] for i in range(min(n, 3) if family in VERY_SLOW else n)]


def graded(question, text):
    return question.grader.grade([], {"role": "assistant", "content": text}, question.reference)


def asked(question):
    return question.prompt if isinstance(question.prompt, str) else question.prompt[-1]["content"]


def test_the_names_are_those_of_the_library_less_the_refused():
    from reasoning_gym.factory import DATASETS

    assert {*FAMILIES, *REFUSED} == set(DATASETS) and not set(FAMILIES) & set(REFUSED)
    assert set(NOTES) <= set(FAMILIES) and not SLOW - set(FAMILIES)
    assert list(FAMILIES) == sorted(FAMILIES)


def test_show_lists_the_families_without_importing_the_library():
    code = "import sys; from cookbook import cli; cli.main(['show', 'reasoning/gym']); "
    code += "print('reasoning_gym' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "zebra_puzzles" in done.stdout and "course_schedule: a constant answer" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("False")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "chainsum"}, "dataset=chainsum: no such family; did you mean chain_sum"),
        ({"dataset": "composite"}, "name them instead"),
        ({"dataset": "gcd,gcd"}, "names a family twice"),
        ({"dataset": "gcd,"}, "no such family"),
        ({"options": "{"}, "is no JSON"),
        ({"dataset": "gcd,lcm", "options": '{"ab": {}}'}, "'ab' must be one of gcd, lcm"),
        ({"n": 0}, "n=0: must be from 1 to 1000000"),
        ({"examples": 9}, "examples=9"),
    ],
)
def test_what_is_wrong_with_an_option_is_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Gym(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"foo": 1}', "chain_sum has no option 'foo'; it has allow_negation, max_digits"),
        ('{"seed": 1}', "no option 'seed'"),
        ('{"min_terms": -1}', "chain_sum refuses"),
        ('{"min_terms": "two"}', "chain_sum refuses"),
    ],
)
def test_the_familys_own_options_are_checked_by_the_family(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Gym(options=options).tasks("train")
    assert "\n" not in str(caught.value)


def test_an_unknown_family_ends_the_command_with_2(capsys):
    assert cli.main(["run", "core/rl", "env=reasoning/gym", "env.dataset=gdc", "model=x"]) == 2
    assert "did you mean gcd?" in capsys.readouterr().err


def test_there_is_no_third_split():
    with pytest.raises(ValueError, match="'validation'"):
        Gym().tasks("validation")


@each_family
def test_the_splits_share_no_question(family, capfd):
    train, test = ({asked(q) for q in problems(family, split, 50)} for split in ("train", "test"))
    assert train and test and not train & test
    assert capfd.readouterr().out == ""


def test_the_splits_of_other_seeds_and_options_share_no_question_either():
    train = {asked(q) for seed in range(3) for q in problems("coin_flip", "train", 100, seed=seed)}
    test = {asked(q) for seed in range(3) for q in problems("coin_flip", "test", 100, seed=seed)}
    assert len(train) > 50 and len(test) > 10 and not train & test


def test_a_quarter_of_the_questions_is_held_out_whatever_their_spaces():
    share = sum(held_out(f"What is {i} + 1?") for i in range(2000)) / 2000
    assert 0.2 < share < 0.3
    assert all(held_out(f"What  is\n{i} + 1? ") == held_out(f"what is {i} + 1?") for i in range(50))


def test_a_family_with_one_question_has_no_two_splits():
    one = '{"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}'
    assert Gym(options=one).tasks("test")[0]
    from cookbook_plugin_reasoning.families import Family

    class Same(Family):
        def item(self, index):
            return super().item(0)

    tasks = Gym().tasks("train")
    source = tasks._sources[0]
    source._family = Same("chain_sum", {}, 0)
    wrong = not held_out(source._family.item(0)["question"])
    with pytest.raises(ConfigError, match="of 64 questions none is a"):
        source.problem(0, wrong)


def test_problems_are_lazy_and_as_many_as_were_asked_for():
    tasks = Gym(n=1_000_000).tasks("train")
    assert len(tasks) == 1_000_000 and tasks[999_999].reference["answer"] == tasks[-1].reference["answer"]
    assert len(tasks[5:8]) == 3 and len({asked(q) for q in tasks[:30]}) == 30
    with pytest.raises(IndexError):
        tasks[1_000_000]


def test_another_seed_gives_other_problems():
    first, second = ({asked(q) for q in problems("chain_sum", seed=seed)} for seed in (0, 1))
    assert not first & second


def test_several_families_take_turns_with_options_of_their_own():
    env = Gym(dataset="chain_sum, gcd", options='{"chain_sum": {"min_terms": 2, "max_terms": 2}}')
    names = [q.reference["metadata"]["source_dataset"] for q in env.tasks("train")[:4]]
    assert names == ["chain_sum", "gcd"] * 2
    assert env.tasks("train")[0].reference["metadata"]["num_terms"] == 2


def test_examples_are_solved_training_problems():
    for answer, said in (("tags", "<answer>{}</answer>"), ("reply", "{}")):
        tasks = Gym(examples=2, answer=answer).tasks("test")
        *shown, _ = tasks[0].prompt
        assert [m["role"] for m in shown] == ["user", "assistant"] * 2 and tasks[1].prompt[:4] == shown
        assert graded(tasks[0], said.format(tasks[0].reference["answer"])).correct
    with pytest.raises(ConfigError, match="rush_hour has no reference answers"):
        Gym(dataset="rush_hour", examples=1).tasks("train")


FAST = [family for family in FAMILIES if family not in SLOW]
DIGEST = """
import sys, hashlib
from cookbook_plugin_reasoning.gym import Gym
for family in sys.argv[1:]:
    tasks = Gym(dataset=family).tasks("train")
    made = [(tasks[i].prompt, tasks[i].reference["answer"]) for i in range(2)]
    print(family, hashlib.sha1(repr(made).encode("utf-8", "replace")).hexdigest())
"""


def digests(families, hash_seed):
    done = subprocess.run(
        [sys.executable, "-c", DIGEST, *families],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    return done.stdout.split("\n")


def test_problems_are_the_same_in_every_process():
    assert digests(FAST, "1") == digests(FAST, "2")


@pytest.mark.slow_family
def test_problems_of_slow_families_are_the_same_in_every_process():
    assert digests(sorted(SLOW), "1") == digests(sorted(SLOW), "2")


@pytest.mark.parametrize("family", ["list_functions", "pool_matrix", "acre", "gsm_symbolic", "word_ladder"])
def test_a_problem_depends_on_no_other_and_leaves_the_global_generators_alone(family):
    alone = Gym(dataset=family).tasks("train")[7].prompt
    random.seed(1)
    state = random.getstate()
    tasks, others = Gym(dataset=family).tasks("train"), Gym(dataset="list_functions").tasks("test")
    mixed = [(others[i], tasks[j].prompt)[1] for i, j in enumerate((3, 7, 0))]
    assert mixed[1] == alone and random.getstate() == state


@each_family
def test_the_reference_is_right_and_garbage_isnt(family):
    for question in problems(family):
        gold = question.reference["answer"]
        if isinstance(gold, str):
            grade = graded(question, gold)
            assert grade.verdict == "right" and grade.reward == 1.0, (gold, grade)
        for text in [*GARBAGE, asked(question), asked(question)[-300:], "word " * 1500]:
            grade = graded(question, text)
            assert grade.verdict in ("right", "wrong"), (text, grade)
            assert 0 <= grade.reward <= 1 and (grade.reward == 0 or grade.reward > 0.1)
            if grade.correct and isinstance(gold, str):
                assert equal(text, gold) or family in ("puzzle24", "palindrome_generation"), (text, gold)
            elif grade.correct:
                assert len(text) == 1, text  # a cube may be one turn from being solved


def equal(text, gold):
    if text.strip().casefold() == gold.strip().casefold():
        return True
    try:
        return math.isclose(float(text), float(gold.split()[0]), rel_tol=1e-3)
    except ValueError:
        return False


@each_family
def test_hostile_answers_run_nothing_hang_nothing_and_raise_nothing(family, tmp_path):
    question = problems(family, n=1)[0]
    for text in HOSTILE:
        began = time.perf_counter()
        grade = graded(question, text.replace("{canary}", str(tmp_path / "canary")))
        assert grade.verdict == "wrong", (text[:50], grade)
        assert time.perf_counter() - began < 2, text[:50]
    assert not list(tmp_path.iterdir())


def made(family, answer, **metadata):
    """A question of a family with a given reference."""
    question = Gym(dataset=family, answer="reply").tasks("train")[0]
    question.reference.update(answer=answer)
    question.reference["metadata"].update(metadata)
    return question


@pytest.mark.parametrize(
    ("family", "reference", "metadata", "right", "wrong"),
    [
        (
            "coin_flip",
            "3.051757812e-05",
            {"rational": {"numerator": 1, "denominator": 32768}},
            "1/32768",
            "0",
        ),
        ("complex_arithmetic", "3.0 - 1.0i", {"result": (3, -1)}, "3 - i", "nan"),
        ("complex_arithmetic", "0.0 - 4.0i", {"result": (0, -4)}, "-4i", "4i"),
        ("complex_arithmetic", "0.0 + 1.0i", {"result": (0, 1)}, "i", "1"),
        ("number_sorting", "['1.5', '2.0']", {"sorted_numbers": ["1.5", "2.0"]}, "[1.5, 2]", "[1.5, 2.4]"),
        (
            "number_sorting",
            "['1.5', '2.0']",
            {"sorted_numbers": ["1.5", "2.0"]},
            "['1.50', '2.0']",
            "[NaN, NaN]",
        ),
        ("gsm_symbolic", "-5", {}, "-5.0", "5"),
        ("gsm_symbolic", "1200", {}, "$1,200", "1200 or 1300"),
        ("prime_factorization", "2 * 3", {"number": 6, "factors": [2, 3]}, "3 x 2", "6"),
        ("game_of_life_halting", "False", {}, "false", "True"),
        ("countdown", "3*4 - 2", {"numbers": [2, 3, 4], "target": 10}, "-2 + 3*4", "10"),
        ("puzzle24", "3*8*1*1", {"numbers": [3, 8, 1, 1]}, "3*8*1/1", "6*4*1*1"),
        ("puzzle24", "5*5 - 1*1", {"numbers": [5, 5, 1, 1]}, "5*5 - 1/1", "5*5 - 1**1"),
        ("simple_integration", "x**2 + C", {"integrand": "2*x", "variable": "x"}, "x**2 + 7 + C", "x**2 + x"),
        (
            "intermediate_integration",
            "exp(x) + C",
            {"integrand": "exp(x)", "variable": "x"},
            "E**x",
            "Integral(exp(x), x)",
        ),
        (
            "intermediate_integration",
            "log(x)",
            {"integrand": "1/x", "variable": "x"},
            "log(2*x)",
            "log(x)/log(2)",
        ),
        (
            "intermediate_integration",
            "2*(x - 9)**(3/2)/3 + C",
            {"integrand": "sqrt(x - 9)", "variable": "x"},
            "2*(x-9)**(3/2)/3",
            "C",
        ),
        ("polynomial_multiplication", "x**2 - 1", {}, "-1 + x*x", "(x + 1)*(x - 1)"),
        ("n_queens", "Q _\n_ Q", {"valid_answers": ["Q _\n_ Q"]}, "Q _ \n_ Q", '[["Q", "_"], ["_", "Q"]]'),
    ],
)
def test_an_answer_is_right_by_what_it_means(family, reference, metadata, right, wrong):
    question = made(family, reference, **metadata)
    assert graded(question, right).correct is True
    assert graded(question, wrong).correct is False


def test_a_scorer_that_fails_for_the_reference_too_has_no_verdict(monkeypatch):
    question = made("gcd", "12")
    broken = question.grader._family.dataset
    for give in (lambda answer, entry: 1 / 0, lambda answer, entry: math.nan, lambda answer, entry: 3.0):
        monkeypatch.setattr(broken, "score_answer", give)
        grade = graded(question, "12")
        assert grade.verdict == "undecided" and grade.reward is None and "reference" in grade.detail
    monkeypatch.setattr(broken, "score_answer", lambda answer, entry: float(answer == "12" or answer))
    assert graded(question, "dozen").verdict == "wrong"


def test_form_alone_earns_nothing_and_parts_may_be_left_out():
    for partial, rewards in ((True, [0, 0, 0.5]), (False, [0, 0, 0])):
        question = Gym(dataset="gcd", answer="reply", partial=partial).tasks("train")[0]
        question.grader._family.dataset.score_answer = lambda answer, entry: float(answer)
        assert [graded(question, text).reward for text in ("0.01", "0.1", "0.5")] == rewards


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("<answer>{}</answer>", True),
        ("Let me see. <answer>nine hundred</answer> No: <answer>\n{} </answer> Done.", True),
        ("<answer>{}</answer> or <answer>banana</answer>", False),
        ("<answer>{}", False),
        ("{}", False),
        ("</answer>{}<answer>", False),
        ("", False),
    ],
)
def test_the_answer_is_what_the_last_tags_hold(text, correct):
    question = Gym(dataset="gcd").tasks("train")[0]
    assert "<answer>...</answer>" in asked(question)
    reply = {"role": "assistant", "content": text.format(question.reference["answer"])}
    step = asyncio.run(question.table()[0].step(reply))
    assert step.correct is correct and step.reward == float(correct)


def test_the_recipe_settles_and_begins_on_this_machine():
    from cookbook.configs import layers_of, settle
    from cookbook.rl import RLConfig
    from cookbook_plugin_reasoning.recipes import gym

    recipe = gym()
    config = settle(
        RLConfig, [*layers_of(recipe), ("local", {"backend": "local/torch", **recipe.local})]
    ).config
    tasks = config.env.tasks("train")
    assert json.dumps(tasks[0].reference["answer"]) and len(tasks[0].prompt) == 7
    assert (
        hashlib.sha1(asked(tasks[0]).encode()).hexdigest()
        != hashlib.sha1(asked(tasks[1]).encode()).hexdigest()
    )
