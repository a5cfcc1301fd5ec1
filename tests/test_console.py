"""What a person sees of a run, in a terminal and in a pipe."""

import io
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from cookbook.console import Console
from cookbook.runs import Run
from cookbook.types import Episode, Message

ROW = {"version": 0, "n": 4, "reward": 0.25, "correct": 0.5, "tokens/reply": 3.0, "groups/constant": 1.0}
EVAL = {"eval/n": 5, "eval/undecided": 0, "eval/correct": 0.6, "eval/correct_se": 0.219}
FACTS = {"dtype": "float32", "processor": "A [bold]B[/bold], 2 cores"}


def shown(play, *, terminal=False, steps=2, folder="runs/x", facts=FACTS) -> str:
    """All that a console prints while `play(console)` goes on."""
    file = io.StringIO()
    colors = "standard" if terminal else "auto"
    rich = RichConsole(file=file, force_terminal=terminal, soft_wrap=True, width=100, color_system=colors)
    record = {"steps": steps} | ({"backend": facts} if facts else {})
    console = Console(Run(Path(folder), record), rich)
    try:
        play(console)
    finally:
        console.close()
    return file.getvalue()


def episode(*messages: Message) -> Episode:
    return Episode([], list(messages), 0.5, None, "done", 0)


def whole_run(console: Console) -> None:
    console.begin()
    for step in range(2):
        console.log(step, ROW | {"version": step, "reward": 0.25 + step / 2})
        console.episodes(step, [episode(Message(role="user", content=f"hello {step}"))])
    console.evaluation(2, EVAL)


def test_a_pipe_gets_plain_lines():
    text = shown(whole_run)
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.splitlines()[:5] == [
        "run runs/x",
        "on dtype float32, processor A [bold]B[/bold], 2 cores",
        "step 1/2  reward 0.250  correct 0.500  reply 3.000  constant 1.000",
        "step 2/2  reward 0.750  correct 0.500  reply 3.000  constant 1.000",
        "eval of version 2: correct 0.600 ± 0.219 (5 episodes)",
    ]
    assert text.splitlines()[-1] == "run runs/x"


def test_a_line_is_never_wrapped_in_a_pipe():
    lines = shown(lambda console: console.log(0, ROW | {"train/kl_k1": 0.1}), folder="x" * 300).splitlines()
    assert lines[-1] == "run " + "x" * 300
    assert "kl_k1 0.100" in lines[0]


def test_a_terminal_gets_a_bar_that_ends_full_and_a_table():
    text = shown(whole_run, terminal=True)
    assert "━" in text
    assert "0/2" in text
    assert text.count("2/2") > text.count("step 2/2")
    assert "\x1b[?25l" in text  # the cursor, hidden while the bar is there
    assert text.count("\x1b[?25h") == text.count("\x1b[?25l")
    assert "mean of steps" in text


def test_the_table_sets_the_first_steps_against_the_last():
    def twelve(console):
        for step in range(12):
            console.log(step, {"n": 4, "version": step, "env/[red]": step, "x": 1500.0, "only/first": 1.0})
            console.evaluation(step, EVAL)

    lines = shown(twelve).splitlines()
    head, *cells = [line.split() for line in lines if set(line) & set("│┃")]
    assert [word for word in head if word != "┃"] == ["mean", "of", "steps", "first", "5", "last", "5"]
    assert cells == [
        ["│", "env/[red]", "│", "2.000", "│", "9.000", "│"],
        ["│", "x", "│", "1500", "│", "1500", "│"],
        ["│", "only/first", "│", "1.000", "│", "1.000", "│"],
    ]


def test_a_metric_that_only_the_first_step_has_is_no_row_of_the_table():
    text = shown(lambda console: [console.log(0, ROW | {"train/loss": 7.0}), console.log(1, ROW)])
    assert "reward" in text
    assert "train/loss" not in text


def test_one_step_is_no_table():
    text = shown(lambda console: (console.begin(), console.log(0, ROW)), facts=None)
    assert text.splitlines() == [
        "run runs/x",
        "step 1/2  reward 0.250  correct 0.500  reply 3.000  constant 1.000",
        "no step had a gradient: in every group all rewards were equal",
        "run runs/x",
    ]


def test_evaluations_are_compared_at_the_end():
    text = shown(lambda console: [log_one(console, v) for v in (0, 7)])
    assert text.splitlines()[-1] == "eval: correct 0.000 at version 0, 0.700 at version 7"


def log_one(console, version):
    row = {"correct": version / 10, "correct_se": 0.1, "undecided": 0, "n": 5}
    console.evaluation(version, {f"eval/{k}": v for k, v in row.items()})


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (EVAL, "eval of version 7: correct 0.600 ± 0.219 (5 episodes)"),
        (
            EVAL | {"eval/reward": -1.5, "eval/undecided": 2},
            "eval of version 7: correct 0.600 ± 0.219, reward -1.500, 2 without a verdict (5 episodes)",
        ),
        (
            {"eval/n": 3, "eval/undecided": 3, "eval/reward": 1.0},
            "eval of version 7: reward 1.000, 3 without a verdict (3 episodes)",
        ),
        (
            EVAL | {"eval.0/n": 1, "eval.0/undecided": 0, "eval.0/reward": 2.0},
            "eval of version 7: correct 0.600 ± 0.219 (5 episodes)\n"
            "eval.0 of version 7: reward 2.000 (1 episodes)",
        ),
    ],
)
def test_an_evaluation_is_a_line_a_set_and_no_step(row, line):
    assert shown(lambda console: console.evaluation(7, row)) == line + "\n"


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("content", ["[red]stop[/red]", "[/nothing]", ":smile:", "[link=x]y", "é 漢"])
def test_a_transcript_is_shown_as_it_is(content, terminal):
    said = Message(role="user", content=content)
    text = shown(lambda console: console.episodes(0, [episode(said), episode()]), terminal=terminal)
    assert f"  user: '{content}'\n" in text


def test_a_transcript_cannot_drive_the_terminal():
    said = Message(role="user", content="\x1b[2J\r\n\x07")
    text = shown(lambda console: console.episodes(3, [episode(said)]))
    assert text == "\nan episode of step 4, reward 0.5:\n  user: '\\x1b[2J\\r\\n\\x07'\n"


def test_the_last_transcript_is_the_one_that_is_shown():
    def several(console):
        console.episodes(0, [episode(Message(role="user", content="first"))])
        console.episodes(1, [])

    assert "first" in shown(several)
    assert "second" not in shown(several)


@pytest.mark.parametrize("folder", ["runs/[red]x", "runs/:smile:"])
def test_a_folder_is_named_as_it_is(folder):
    text = shown(lambda console: (console.begin(), console.log(0, ROW)), folder=folder, facts=None)
    assert text.splitlines()[0] == text.splitlines()[-1] == f"run {folder}"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_that_never_began_shows_nothing(terminal):
    assert shown(lambda console: None, terminal=terminal) == ""


def test_a_run_of_no_steps_or_that_fails_before_the_first_shows_only_where_it_lies():
    for steps in (0, 2):
        lines = shown(lambda console: console.begin(), steps=steps, facts=None).splitlines()
        assert lines == ["run runs/x"]


def test_a_bar_of_no_steps_is_put_away():
    text = shown(lambda console: console.begin(), terminal=True, steps=0, facts=None)
    assert "0/0" in text
    assert text.count("\x1b[?25h") == text.count("\x1b[?25l") > 0
