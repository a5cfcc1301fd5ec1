r"""What is right, wrong and undecided, and by which stage."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cookbook import Question
from cookbook.errors import ConfigError
from cookbook_plugin_math import grading
from cookbook_plugin_math.answer import Answer, Verify
from cookbook_plugin_math.deciding import Read
from cookbook_plugin_math.grade_command import main
from cookbook_plugin_math.grading import Grading, is_correct, warm

REPLY = {"role": "assistant", "content": r"\boxed{42}"}
GOLDENS = Path(__file__).parents[4] / "shared" / "goldens" / "math"

ANSWERS = json.loads((Path(__file__).parent / "answers.json").read_text(encoding="utf-8"))
RIGHT = [(answer, row["reference"]) for row in ANSWERS for answer in row["right"]]
WRONG = [(answer, row["reference"]) for row in ANSWERS for answer in row["wrong"]]


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm()


@pytest.mark.parametrize("answer, reference", RIGHT)
def test_an_answer_that_is_the_same_object_is_right(answer, reference):
    assert is_correct(rf"\boxed{{{answer}}}", reference) and is_correct(answer, reference)


@pytest.mark.parametrize("answer, reference", WRONG)
def test_another_object_is_not_right(answer, reference):
    assert not is_correct(rf"\boxed{{{answer}}}", reference)
    assert not is_correct(answer, reference)


@pytest.mark.parametrize(
    "answer, reference, verdict, stage",
    [
        ("42", "42", "right", "text"),
        ("1,000", "1000", "right", "number"),
        (r"\left( 1 , 2 \right)", "(1,2)", "right", "normal"),
        ("Evelyn", r"\text{Eve}", "wrong", "text"),
        ("(B)", "B", "right", "choice"),
        ("2, 1", "1, 2", "right", "structure"),
        ("(x+1)^2", "x^2+2x+1", "right", "symbolic"),
        ("(x+2)^2", "x^2+2x+1", "wrong", "symbolic"),
        ("x + ", "x", "wrong", "reading"),
        ("", "1", "wrong", "text"),
        ("3", r"\foo{", "undecided", "reading"),
        (r"\int_0^1 x\,dx", "7", "wrong", "symbolic"),
        ("9**9**9**9", "x", "wrong", "symbolic"),
        ("0/0", r"\sqrt{2}", "wrong", "symbolic"),
        ("7", r"\int_0^1 x\,dx", "undecided", "symbolic"),
        ("5", r"\frac{1}{0}", "wrong", "symbolic"),
    ],
)
def test_a_grade_names_the_stage_that_decided(answer, reference, verdict, stage):
    grade = Grading().grade(rf"\boxed{{{answer}}}", reference)
    assert (grade.verdict, grade.stage) == (verdict, stage)
    assert grade.reward == {"right": 1.0, "wrong": 0.0, "undecided": None}[verdict]
    assert "read" in grade.detail


def test_verdicts_are_the_same_in_a_thread_and_inside_an_event_loop():
    pairs = (RIGHT + WRONG)[::3]
    here = [is_correct(*pair) for pair in pairs]
    there: list[bool] = []
    thread = threading.Thread(target=lambda: there.extend(is_correct(*pair) for pair in pairs))
    thread.start()
    thread.join()

    async def inside():
        return [is_correct(*pair) for pair in pairs]

    assert here == there == asyncio.run(inside())


def test_the_grader_answers_at_once_or_is_awaited():
    grader = Answer()
    assert grader.grade([], REPLY, 42).verdict == "right"  # type: ignore[union-attr]

    async def ask():
        step = (
            await Question("?", "x^2+2x+1", "math/answer")
            .table()[0]
            .step({"role": "assistant", "content": r"It is \boxed{(x+1)^2}."})
        )
        return step.correct, step.reward

    assert asyncio.run(ask()) == (True, 1.0)


def test_many_at_once_in_an_event_loop_each_get_their_own_verdict():
    async def all_of_them():
        grader = Answer()

        async def one(n: int) -> bool:
            grade = grader.grade(
                [], {"role": "assistant", "content": rf"\boxed{{(x+{n})^2}}"}, f"x^2+{2 * n}x+{n * n}"
            )
            return (grade if hasattr(grade, "verdict") else await grade).verdict == "right"  # type: ignore[misc]

        return await asyncio.gather(*(one(n) for n in range(2, 130)))

    assert all(asyncio.run(all_of_them()))


def test_an_accept_on_rounded_values_alone_is_not_enough():
    assert not is_correct(r"\sqrt{10^{30}+1}", "10^{15}")
    assert not is_correct(r"\frac{103993}{33102}", r"\pi")
    assert not is_correct("e^{-200}", "0")


def test_math_verify_is_asked_about_what_isnt_decided_and_only_then():
    undecided = (r"\boxed{\frac13}", r"\int_0^1 x^2 \, dx")
    assert Grading().grade(*undecided).verdict == "undecided"
    grade = Grading(opinion=True).grade(*undecided)
    assert (grade.verdict, grade.stage) == ("right", "math-verify")
    assert Grading(opinion=True).grade(r"\boxed{2}", "2").stage == "text"


def test_math_verify_grades_in_a_worker_from_an_event_loop():
    async def ask(answer: str):
        question = Question("?", r"\sqrt{8}", "math/verify")
        return (await question.table()[0].step({"role": "assistant", "content": answer})).correct

    async def both():
        return await asyncio.gather(ask(r"\boxed{2\sqrt2}"), ask(r"\boxed{3\sqrt2}"))

    assert asyncio.run(both()) == [True, False]


def test_without_math_verify_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for grader in (lambda: Verify(), lambda: Answer(opinion=True).grade([], REPLY, 1)):
        with pytest.raises(ConfigError, match=r"pip install 'cookbook-plugin-math\[verify\]'"):
            grader()


def test_the_command_tells_what_was_read_and_by_which_stage(capsys):
    assert main(["--text", r"It is \boxed{(x+1)^2}.", "--reference", "x^2+2x+1", "--verify"]) == 0
    out = capsys.readouterr().out
    assert "found by: box" in out and "(pow (add (x 1)) 2)" in out
    assert "verdict     right   (stage: symbolic" in out and "math-verify right" in out
    assert main(["--text", "x + ", "--reference", "x"]) == 0
    out = capsys.readouterr().out
    assert "not read: 'the end' where a value is wanted" in out and "wrong   (stage: reading" in out


def test_the_command_refuses_an_empty_reference():
    with pytest.raises(ConfigError, match="--reference is empty"):
        main(["--text", "1", "--reference", " "])


def test_a_verdict_of_the_symbolic_stage_is_kept():
    grading._decided.clear()
    assert is_correct("(x+7)^2", "x^2+14x+49")
    assert grading._decided["(x+7)^2", "x^2+14x+49"].verdict == "right"
    assert len(grading._decided) == 1


HOSTILE = [
    "9**(9**9)",
    "(((9!)!)!)!",
    r"\frac{99999999!}{99999998!}",
    "1e999999999",
    "9" * 100_000,
    "1+" * 20_000 + "1",
    r"\frac{" * 5000 + "1",
    r"\sin(" * 300 + "x",
    "{" * 100_000,
    r"\boxed{" * 5000 + "7",
    r"\{" + r"\pm 1," * 400 + r"1\}",
    r"\sum_{k=1}^{1000000000} \frac{1}{k}",
    "__import__('os').system('touch canary')",
    "x.__class__.__mro__",
    "\ud800\x00\u202e",
    "ﷺ" * 2000,
    "a_{" * 50 + "1" + "}" * 50,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("reference", ["5", "x+1", r"\text{no}"])
def test_hostile_replies_end_without_a_verdict_of_right(text, reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Grading().grade(text, reference).verdict in ("wrong", "undecided")
    assert Grading().grade(rf"\boxed{{{text}}}", reference).verdict in ("wrong", "undecided")
    assert list(tmp_path.iterdir()) == []


def test_reading_never_raises_and_says_why_not():
    assert Read("x + ").node is None and "the end" in Read("x + ").reason
    assert "longer than" in Read("1+" * 9000).reason
    deep = Read("(" * 100 + "1" + ")" * 100)
    assert deep.node is None and "nested" in deep.reason


@pytest.mark.skipif(not GOLDENS.exists(), reason="the goldens don't lie beside this clone")
def test_the_labelled_cases_are_decided_as_labelled():
    rows = [json.loads(line) for line in (GOLDENS / "cases_public.jsonl").read_text().splitlines()]
    rows = [row for row in rows if isinstance(row["text"], str)]
    verdicts = [is_correct(row["text"], row["gold"]) for row in rows]
    false_accepts = [row["id"] for row, v in zip(rows, verdicts, strict=True) if v and not row["expected"]]
    right = sum(v == bool(row["expected"]) for row, v in zip(rows, verdicts, strict=True))
    assert len(false_accepts) <= 1 and right / len(rows) >= 0.99


def test_nothing_is_left_running_when_a_program_ends():
    code = (
        "import os, subprocess\n"
        "from cookbook_plugin_math.grading import is_correct\n"
        "assert is_correct('(x+1)^2', 'x^2+2x+1')\n"
        "print(*[pid for pid in os.listdir('/proc') if pid.isdigit()"
        " and f'PPid:\\t{os.getpid()}\\n' in open(f'/proc/{pid}/status').read()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    workers = done.stdout.split()
    assert workers and not any(os.path.exists(f"/proc/{pid}") for pid in workers)
