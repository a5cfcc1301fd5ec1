"""Every command on a page of docs/ is run, and prints what the page shows; see consoles.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import consoles

MARKED = [p for p in consoles.PAGES if any("embedded" in b.marks for b in consoles.blocks(p.read_text()))]


@pytest.mark.parametrize("page", consoles.PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_print_what_it_shows(page, tmp_path):
    problems = consoles.run_page(page, tmp_path).problems
    assert not problems, "\n".join([*problems, "`make docs` writes outputs that have changed into the pages"])


@pytest.mark.embedded
@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.stem)
def test_so_do_those_that_need_the_embedded_model(page, tmp_path):
    problems = consoles.run_page(page, tmp_path, embedded=True).problems
    assert not problems, "\n".join(problems)


@pytest.fixture
def problems(tmp_path):
    """`problems(text)`: what is wrong with a page of that text; `problems.page` is the page as mended."""

    def problems(text):
        page = tmp_path / "page.md"
        page.write_text(text)
        outcome = consoles.run_page(page, tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        problems.page = outcome.page
        return outcome.problems

    return problems


def test_a_page_with_what_is_printed_is_right(problems):
    assert (
        problems("# A page\n\n```console\n$ cookbook --version\n0.1.0\n\n$ echo a; echo b\na\nb\n```\n") == []
    )


def test_an_output_that_has_changed_is_a_problem_and_is_written_anew(problems):
    text = "# A page\n\n```console\n$ cookbook --version\n0.0.9\n\n$ echo a\na\n```\n\nAfter it.\n"
    (problem,) = problems(text)
    assert problem.startswith("page.md:4: `cookbook --version` prints otherwise")
    assert "-0.0.9" in problem and "+0.1.0" in problem
    assert problems.page == text.replace("0.0.9", "0.1.0")
    assert problems(problems.page) == []


@pytest.mark.parametrize(
    ("shown", "printed", "right"),
    [
        (["a", "...", "e"], list("abcde"), True),
        (["...", "c", "..."], list("abcde"), True),
        (["a", "..."], ["a"], True),
        (["a", "...", "d"], list("abcde"), False),
        (["...", "x", "..."], list("abcde"), False),
        (["a", "...", "a"], ["a"], False),
        (["a"], list("ab"), False),
        ([], ["a"], False),
    ],
)
def test_three_dots_stand_for_any_lines(shown, printed, right):
    assert consoles.same(shown, printed) is right


def test_what_was_left_out_stays_left_out(problems):
    (problem,) = problems("```console\n$ seq 1 9\n1\n...\n8\n```\n")
    assert "prints otherwise" in problem
    assert problems.page == "```console\n$ seq 1 9\n1\n...\n9\n```\n"


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("run runs/math-arithmetic-20261123-232609-4404", "run runs/math-arithmetic-20270101-000000-ffff"),
        (
            "step  1/50  reward 0.211  kl_k1 -6.0e-04  step_s 12.142",
            "step  1/50  reward 0.900  kl_k1 0.002  step_s 2.023",
        ),
        ("step 17/20  reward 0.900  kl_k1 0.002  step_s 2.0", "step 17/20  reward 1.000  step_s 9.6"),
        ("eval of version 0: correct 0.380 ± 0.034", "eval of version 0: correct 0.410 ± 0.030"),
        ("on device cpu, dtype bfloat16, threads 2", "on device cpu, dtype float32, threads 1"),
        ("│ reward   │ 0.353 │", "│ reward │ 1.0e-04 │"),
        ("  assistant: '= 52'", "  assistant: '= 53'"),
        ("  cost/turns 1  cost/steps_per_s 245", "  cost/turns 1  cost/steps_per_s 1.2e+03"),
        ("it took 1.2 s", "it took 3 s"),
        ("code a/b.py:12", "code a/b.py:14"),
    ],
)
def test_what_differs_between_machines_is_compared_by_its_shape(shown, printed):
    assert consoles.same([shown], [printed])


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("step  1/50  reward 0.211", "step  2/50  reward 0.211"),
        ("step  1/50  reward 0.211", "step  1/50  nll 0.211"),
        ("eval of version 0: correct 0.380", "eval of version 1: correct 0.380"),
        ("run runs/math-arithmetic-20261123-232609-4404", "run runs/chat-sft-20261123-232609-4404"),
        ("  digits  int  2 (default)", "  digits  int  3 (default)"),
        ("reward 0.5", "reward 0.6"),
        ("  cost/turns 1  cost/steps_per_s 245", "  cost/turns 2  cost/steps_per_s 245"),
    ],
)
def test_and_no_more_than_its_shape_is_passed_over(shown, printed):
    assert not consoles.same([shown], [printed])


def test_a_command_that_fails_is_a_problem_unless_the_page_says_so(problems):
    (problem,) = problems("```console\n$ cookbook show math/nothing\n```\n")
    assert "exits with 2, not 0" in problem and "there is no row math/nothing" in problem
    assert problems.page == "```console\n$ cookbook show math/nothing\n```\n"
    (problem,) = problems("```console\n$ cookbook --version  # exits with 2\n0.1.0\n```\n")
    assert "exits with 0, not 2" in problem
    assert problems("```console\n$ cookbook show math/nothing  # exits with 2\n...\n```\n") == []


def test_a_file_of_the_page_is_there_for_the_commands_after_it(problems):
    shown = "```python title=a/b.py\nprint(1)\n```\n\n```python append=a/b.py\nprint(2)\n```\n"
    assert problems(shown + "\n```console\n$ cd a\n$ python b.py\n1\n2\n```\n") == []
    (problem,) = problems("```python title=../../b.py\nprint(1)\n```\n")
    assert "lies outside" in problem


def test_a_quotation_must_stand_in_its_source(problems):
    loop = "for step in range(run.step, cfg.steps):\n...\n    run.log({})\n"
    quoted = f"```python from=core/cookbook/rl.py\n{loop}```\n"
    assert problems(quoted.format("step, row | clock.row()")) == []
    (problem,) = problems(quoted.format("step, row"))
    assert "core/cookbook/rl.py has no lines like" in problem


def test_python_that_nothing_runs_is_a_problem(problems):
    (problem,) = problems("```python\nprint(1)\n```\n")
    assert "nothing runs this python block" in problem
    (problem,) = problems("```python tested=tests/test_floors.py\nprint(1)\n```\n")
    assert "tests/test_floors.py doesn't name page.md" in problem


def test_a_command_for_the_reader_must_exist_and_settle(problems):
    assert problems("    cookbook run math/gsm8k env.few_shot=1 model=...   # on Tinker\n") == []
    assert problems("    cookbook resume RUN\n    cookbook local setup\n    make demo\n") == []
    (problem,) = problems("Words.\n\n    cookbook run math/gsm8k env.few_shots=1\n")
    assert problem.startswith("page.md:3:") and "there is no option" in problem
    assert problems("    cd examples && cookbook run core/rl env=two_seats:Nim model=...\n") == []
    assert "there is no `cookbook ruin`" in problems("    cookbook ruin math/gsm8k\n")[0]


def test_a_marked_block_waits_for_the_embedded_model(problems):
    assert problems("```console embedded\n$ false\n```\n") == []
    assert problems("```console\n$ false\n```\n") != []
