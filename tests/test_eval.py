"""Evaluations: what is played, what is counted, how sure one may be, and what they are compared with."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import random
import statistics
import sys
from types import SimpleNamespace

import chz
import pytest

from cookbook import EnvConfig, Message, Step
from cookbook.cli import main
from cookbook.errors import ConfigError
from cookbook.evaluate import EvalConfig
from cookbook.runs import Run, read_record, read_rows, status, transcripts
from cookbook.scores import clustered_se, of_tasks, paired, pass_at, pass_at_k
from cookbook.types import Episode


def episode(correct, reward=None, seat=0):
    reward = reward if reward is not None or correct is None else float(correct)
    return Episode([], [Message(role="user", content="?")], reward, correct, "done", 0, seat)


def group(*verdicts):
    return [episode(verdict) for verdict in verdicts]


# How sure one may be


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [True] * c + [False] * (n - c)
        draws = list(itertools.combinations(samples, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(2, 3, 1), (2, 1, 3), (2, 1, 0), (2, -1, 1)])
def test_pass_at_k_of_what_cannot_be_is_refused(n, c, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, c, k)


def test_pass_at_k_is_unbiased_whatever_the_number_of_samples():
    p, draw = 0.3, random.Random(0)
    tasks = [group(*(draw.random() < p for _ in range(6))) for _ in range(4000)]
    row = pass_at(tasks)
    for k in (1, 2, 4, 6):
        assert abs(row[f"pass@{k}"] - (1 - (1 - p) ** k)) < 4 * row[f"pass@{k}_se"]


def test_the_ks_are_powers_of_two_and_the_samples_themselves():
    def ks(n):
        return [k for k in range(1, n + 1) if f"pass@{k}" in pass_at([group(*[True] * n)] * 2)]

    assert [ks(1), ks(2), ks(4), ks(6), ks(9)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 6], [1, 2, 4, 8, 9]]
    assert pass_at([]) == {}


def test_what_is_undecided_is_left_out_of_pass_at_k_and_so_are_tasks_with_too_few_verdicts():
    row = pass_at([group(True, None, False, None), group(False, False, True, True), group(*[None] * 4)])
    assert (row["pass@1"], row["pass@1_tasks"]) == (0.5, 2)
    assert row["pass@2"] == pytest.approx((1 + 1 - 1 / 6) / 2) and row["pass@2_tasks"] == 2
    assert (row["pass@4"], row["pass@4_tasks"]) == (1.0, 1) and "pass@4_se" not in row


def test_a_task_of_several_seats_is_estimated_seat_by_seat():
    won = [episode(seat == 0, seat=seat) for _ in range(3) for seat in range(2)]
    row = pass_at([won, won])
    assert (row["pass@3"], row["pass@3_tasks"], row["pass@3_se"]) == (0.5, 2, 0.0) and "pass@6" not in row


def test_the_standard_error_is_clustered_by_task():
    # By hand: mean 0.5; the clusters' sums of deviations are 1, -1, 0; sqrt(3 / 2 * 2) / 6.
    assert clustered_se([[1, 1], [0, 0], [1, 0]]) == pytest.approx(math.sqrt(3) / 6, abs=1e-12)
    # Miller's double sum over pairs within a cluster, on clusters of different sizes.
    clusters = [[0.25, 0.5], [1.0], [0.0, 0.125, 0.75], [0.5]]
    values = [x for cluster in clusters for x in cluster]
    m, n = statistics.fmean(values), len(values)
    within = sum((a - m) * (b - m) for cluster in clusters for a in cluster for b in cluster)
    assert clustered_se(clusters) == pytest.approx(math.sqrt(4 / 3 * within) / n, abs=1e-12)


def test_with_one_sample_a_task_it_is_the_plain_standard_error():
    values = [0.0, 1.0, 0.25, 1.0, 0.5]
    plain = statistics.stdev(values) / math.sqrt(5)
    assert clustered_se([[x] for x in values]) == pytest.approx(plain, abs=1e-12)
    assert clustered_se([*([x] for x in values), []]) == pytest.approx(plain, abs=1e-12)  # an empty cluster


def test_samples_that_repeat_each_other_make_no_mean_surer():
    once, often = [[1.0], [0.0], [1.0], [1.0]], [[1.0] * 9, [0.0] * 9, [1.0] * 9, [1.0] * 9]
    assert clustered_se(often) == pytest.approx(clustered_se(once), abs=1e-12)
    assert clustered_se([[1.0, 0.0]]) is None and clustered_se([]) is None


def test_right_is_the_verdict_and_never_the_reward():
    row = of_tasks([[episode(False, 1.0)], [episode(True, 0.0)], [episode(None, 1.0)], [episode(None)]])
    assert (row["right"], row["wrong"], row["undecided"], row["n"], row["tasks"]) == (1, 1, 2, 4, 4)
    assert (row["correct"], row["reward"]) == (0.5, 2 / 3)


def test_a_task_whose_environment_failed_counts_nowhere_but_as_failed():
    row = of_tasks([group(True), [], group(False)])
    assert (row["tasks"], row["failed"], row["n"], row["correct"], row["pass@1"]) == (2, 1, 2, 0.5, 0.5)
    assert of_tasks([[], []]) == {
        "right": 0,
        "wrong": 0,
        "undecided": 0,
        "n": 0,
        "tasks": 0,
        "failed": 2,
    }


def test_rewards_without_verdicts_give_no_correct_and_no_pass_at_k():
    row = of_tasks([[episode(None, 0.5)], [episode(None, 1.5)]])
    assert row["reward"] == 1.0 and row["reward_se"] == 0.5 and row["undecided"] == 2
    assert not [name for name in row if name.startswith(("correct", "pass"))]


def test_differences_are_of_pairs_and_their_error_is_that_of_pairs():
    before = [group(False), group(True), group(True), group(False), group(None)]
    after = [group(True), group(True), group(False), group(True), group(True)]
    found = paired(before, after)
    differences = [1.0, 0.0, -1.0, 1.0]  # the undecided one is no pair
    assert found["correct"]["tasks"] == 4 and found["tasks"] == 5
    assert found["correct"]["difference"] == statistics.fmean(differences)
    assert found["correct"]["difference_se"] == pytest.approx(statistics.stdev(differences) / 2)
    assert (found["correct"]["before"], found["correct"]["after"]) == (0.5, 0.75)
    assert (found["right_to_wrong"], found["wrong_to_right"]) == ([2], [0, 3])


def test_with_several_samples_a_task_is_right_when_more_than_half_are():
    before = [group(True, False), group(True, True, False), group(None, True)]
    after = [group(True, True), group(False, False, True), group(None, None)]
    found = paired(before, after)
    assert (found["right_to_wrong"], found["wrong_to_right"], found["correct"]["tasks"]) == ([1], [0], 2)


# What is played


@pytest.fixture
def evaluation(config, letters):
    """`evaluation(client, **values)`: an evaluation on a client."""

    def evaluation(client, **values):
        backend = config(client).backend
        defaults = {"env": letters(), "model": "tiny", "renderer": "core/chatml", "backend": backend}
        return EvalConfig(**(defaults | {"max_tokens": 4, "n": 5, "samples": 3} | values))

    return evaluation


def played(cfg, folder):
    """Its row of numbers and its transcripts. Fails when any task is left."""
    run = folder if isinstance(folder, Run) else Run(folder, {"config": {}})

    async def work():
        try:
            await cfg.run(run)
        finally:
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(work())
    run.end("done")
    (row,) = read_rows(run.folder, "evaluations.jsonl")
    return row, (run.folder / "episodes.jsonl").read_text()


def replies(text):
    """(task, sample) -> reply."""
    rows = [json.loads(line) for line in text.splitlines()]
    return {(row["step"], row["episode"]): row["messages"][-1]["content"] for row in rows}


def test_every_transcript_is_kept_task_by_task(evaluation, fake_client, tmp_path):
    row, text = played(evaluation(fake_client()), tmp_path / "r")
    said = replies(text)
    assert list(said) == [(task, sample) for task in range(5) for sample in range(3)]
    right = sum(reply == "a" for reply in said.values())
    assert (row["eval/right"], row["eval/wrong"], row["eval/n"], row["eval/tasks"]) == (
        right,
        15 - right,
        15,
        5,
    )
    assert row["version"] == 0 and row["eval/stop/done"] == 1 and row["eval/turns"] == 1
    assert row["eval/tokens/sampled"] == 30 and row["eval/tokens/reply"] == 2
    assert {len(set(list(said.values())[i : i + 3])) > 1 for i in range(0, 15, 3)} != {False}
    record = read_record(tmp_path / "r")
    assert (record["tasks"], record["last_step"], record["status"]) == (5, 5, "done")


def test_a_task_and_a_sample_have_their_reply_whatever_n_samples_and_order(evaluation, fake_client, tmp_path):
    arrivals = random.Random(0)

    async def shuffle(name, version, *facts):
        for _ in range(arrivals.randrange(9)):
            await asyncio.sleep(0)

    row, text = played(evaluation(fake_client()), tmp_path / "plain")
    for name, values in {"one": {"max_concurrent": 1}, "two": {"max_concurrent": 2}, "all": {}}.items():
        found = played(evaluation(fake_client(shuffle), **values), tmp_path / name)
        assert found == (row, text)
    wide = replies(played(evaluation(fake_client(), n=0, samples=7), tmp_path / "wide")[1])
    assert len(wide) == 6 * 7 and replies(text).items() <= wide.items()
    other = replies(played(evaluation(fake_client(), seed=1), tmp_path / "other")[1])
    assert other.keys() == replies(text).keys() and other != replies(text)


def test_an_evaluation_has_the_numbers_of_the_one_beside_a_training_run(
    evaluation, config, train, fake_client, tmp_path
):
    train(config(fake_client(), steps=0, eval_tasks=5, eval_temperature=1.0), tmp_path / "training")
    (beside,) = read_rows(tmp_path / "training", "evaluations.jsonl")
    alone, _ = played(evaluation(fake_client(), samples=1), tmp_path / "alone")
    same = {"eval/correct", "eval/reward", "eval/right", "eval/wrong", "eval/n"}
    assert {name: alone[name] for name in same} == {name: beside[name] for name in same}


def test_loaded_weights_are_the_ones_that_play(evaluation, fake_client, tmp_path):
    client = fake_client()
    played(evaluation(client, load="tinker://fake/weights/x-3"), tmp_path / "r")
    assert client.opened == [{"model_path": "tinker://fake/weights/x-3", "base_model": None}]
    assert {version for version, _, _ in client.samples} == {3}
    assert read_record(tmp_path / "r")["loaded"] == "tinker://fake/weights/x-3"
    bare = fake_client()
    played(evaluation(bare), tmp_path / "bare")
    assert bare.opened == [{"model_path": None, "base_model": "tiny"}] and client.calls == bare.calls == []


def test_training_tasks_are_played_where_asked_for(evaluation, letters, fake_client, tmp_path):
    never = letters(answer=lambda reply: Step(None, True))
    row, _ = played(evaluation(fake_client(), env=never, split="train"), tmp_path / "r")
    assert (row["eval/undecided"], row["eval/right"]) == (15, 0) and "eval/correct" not in row


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"samples": 0}, "samples=0: must be 1 or more"),
        ({"n": -1}, "n=-1: must be 0 or more"),
        ({"temperature": -1.0}, "temperature=-1.0: must be 0 or more"),
        ({"max_tokens": 0}, "max_tokens=0: must be 1 or more"),
        ({"seed": -1}, "seed=-1: must be from 0"),
    ],
)
def test_values_out_of_range_are_one_line(evaluation, values, line):
    with pytest.raises(ConfigError, match=line):
        evaluation(None, **values)


def test_a_split_without_tasks_is_refused_before_anything_is_written(evaluation, letters, tmp_path):
    with pytest.raises(ConfigError, match="Letters has no test tasks; try split=train"):
        played(evaluation(None, env=letters(n=0)), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_several_greedy_samples_are_warned_of(evaluation, fake_client, tmp_path):
    played(evaluation(fake_client(), temperature=0.0), tmp_path / "r")
    assert "same reply again" in read_record(tmp_path / "r")["warnings"][0]
    assert evaluation(None, temperature=0.0, samples=1).warnings() == []


# What goes wrong


class Failing:
    """Task i of an environment that raises in one of them."""

    def __init__(self, i, at):
        self.i, self.at = i, at

    def table(self):
        return [self]

    async def start(self):
        return [Message(role="user", content=f"{self.i}?")]

    async def step(self, reply):
        if self.i == self.at:
            raise ZeroDivisionError("of the env")
        return Step(1.0, True, correct=True)


@chz.chz
class Breaks(EnvConfig):
    at: int = 3

    def tasks(self, split):
        return [Failing(i, self.at) for i in range(6)]


def test_an_env_that_raises_ends_it_with_what_was_played_kept(evaluation, fake_client, tmp_path):
    with pytest.raises(ZeroDivisionError, match="of the env"):
        played(evaluation(fake_client(), env=Breaks(), max_concurrent=1), tmp_path / "r")
    assert sorted(transcripts(tmp_path / "r")) == [0, 1, 2]
    assert read_rows(tmp_path / "r", "evaluations.jsonl") == []


@pytest.mark.parametrize("errors", ["drop_group", "retry"])
def test_or_costs_its_task_alone(evaluation, fake_client, tmp_path, errors):
    row, _ = played(evaluation(fake_client(), env=Breaks(), episode_errors=errors), tmp_path / "r")
    assert (row["eval/failed"], row["eval/tasks"], row["eval/n"], row["eval/correct"]) == (1, 4, 12, 1.0)


@pytest.mark.parametrize("cut", ["at a task's end", "amid a task", "amid a line", "before the first"])
def test_a_killed_evaluation_goes_on_to_the_numbers_of_one_that_was_not(
    evaluation, fake_client, tmp_path, cut
):
    values = {"env": Breaks(at=1), "episode_errors": "drop_group"}  # a task without transcripts among them
    whole = played(evaluation(fake_client(), **values), tmp_path / "whole")

    async def stop(name, version, *facts):
        if name == "sample" and len(client.samples) > 10:
            raise OSError("killed")

    client = fake_client(stop)
    run = Run(tmp_path / "r", {"config": {}})
    with pytest.raises(OSError, match="killed"):
        asyncio.run(evaluation(client, **values, max_concurrent=1).run(run))
    assert (run.unit, run.kept) == ("task", 2)  # which may be half there
    os.close(run._lock)  # as the system does
    lines = (tmp_path / "r" / "episodes.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 6 and status(tmp_path / "r") == "killed"
    kept = {"at a task's end": lines, "amid a task": lines[:4], "before the first": []}
    text = "".join(kept.get(cut, [*lines[:5], lines[5][:40]]))
    (tmp_path / "r" / "episodes.jsonl").write_text(text)
    again = fake_client()
    reopened = Run.reopen(tmp_path / "r")
    assert played(evaluation(again, **values), reopened) == whole
    begun = len({prompt for _, prompt, _ in again.samples})
    assert begun == (5 if cut == "before the first" else 3)  # the last task that was written, and the others
    assert status(tmp_path / "r") == "done"


# The command


WORDS = ["backend=local/torch", "backend.dtype=float32", "max_tokens=4", "renderer=core/chatml"]
ENVS = """
import chz
from cookbook import EnvConfig, Question, Grade

class Vowel:
    def grade(self, prompt, reply, reference):
        return Grade(sum(map(ord, reply["content"])) % 2 == 0)

@chz.chz
class Odd(EnvConfig):
    least: int = 0
    def tasks(self, split):
        return [Question(f"{i}{split}?", "", Vowel()) for i in range(self.least, 9)]
"""


@pytest.fixture
def cook(tmp_path, monkeypatch, capsys, tiny_model):
    """`cook(word, ...)`: `cookbook` in an empty folder with an environment, on the tiny model."""
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "made_up_eval.py").write_text(ENVS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def cook(*argv):
        capsys.readouterr()
        code = main([str(word) for word in argv])
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err, lines=said.out.splitlines())

    yield cook
    sys.modules.pop("made_up_eval", None)


@pytest.fixture
def odd(cook, tiny_model):
    """`odd(word, ...)`: `cookbook eval` of that environment."""
    return lambda *words: cook("eval", "made_up_eval:Odd", *WORDS, f"model={tiny_model}", *words)


def test_a_person_sees_a_short_table_and_then_the_folder(odd, tmp_path, tiny_model):
    done = odd("n=4", "samples=2", "--name", "x")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0] == f"made_up_eval:Odd, test, by {tiny_model}"
    assert done.lines[1] == "4 tasks, 2 of each at temperature 1: 8 episodes; ± is a standard error, by task"
    names = [line.split()[0] for line in done.lines[2:-1]]
    assert names[:5] == ["correct", "reward", "pass@1", "pass@2", "right"]
    assert names[5:8] == ["tokens/sampled", "tokens/reply", "turns"] and names[8].startswith("stop/")
    assert done.lines[-1] == f"run {tmp_path / 'runs' / 'x'}"
    record = read_record(tmp_path / "runs" / "x")
    assert record["recipe"] == "core/eval" and record["config"]["n"] == 4 and record["status"] == "done"


def test_json_is_one_object_and_nothing_else(odd, cook, tmp_path):
    done = odd("n=4", "samples=2", "--json")
    found = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert found.keys() >= {"run", "env", "model", "split", "seed", "samples", "temperature", "loaded"}
    assert found["n"] == 8 and found["right"] + found["wrong"] + found["undecided"] == 8
    cells = cook("runs").lines[1].split()
    assert cells[0].startswith("eval-made_up_eval-Odd-") and found["run"].endswith(cells[0])
    assert cells[1:] == ["done", "4", f"{found['correct']:.3f}", f"{found['reward']:.3f}"]


def test_the_same_evaluation_twice_is_the_same_and_no_better(odd):
    odd("n=4", "samples=2", "--name", "x")
    found = json.loads(odd("n=6", "samples=2", "--json", "--compare", "x").out)["compare"]
    assert found["tasks"] == 4 and found["right_to_wrong"] == found["wrong_to_right"] == []
    for name in ("correct", "reward"):
        assert (found[name]["difference"], found[name]["difference_se"]) == (0.0, 0.0)
    done = odd("n=4", "samples=2", "--compare", "x")
    assert [line.split()[0] for line in done.lines[-5:]] == ["against", "correct", "reward", "right", "wrong"]
    assert done.lines[-3].endswith(", +0.000 ± 0.000") and done.lines[-1].split()[-1] == "0"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["env.least=2"], "--compare x: env.least is 2 here and was 0 there; give env.least=0"),
        (["split=train"], "--compare x: split is train here and was test there; give split=test"),
        (["seed=7"], "--compare x: seed is 7 here and was 0 there; give seed=0"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_it_is_played(odd, tmp_path, words, line):
    odd("n=2", "--name", "x")
    done = odd("n=2", *words, "--compare", "x", "--name", "y")
    assert (done.code, done.out, done.err) == (2, "", f"cookbook: {line}\n")
    assert not (tmp_path / "runs" / "y").exists()


def test_what_a_difference_may_come_of_besides_the_model_is_told(odd):
    odd("n=2", "--name", "x")
    done = odd("n=3", "samples=2", "temperature=0.5", "limits.max_turns=3", "--compare", "x")
    assert done.code == 0 and done.lines[-5].startswith("against ")
    assert done.err.splitlines() == [
        f"cookbook: --compare x: {what} there, which may make a difference too"
        for what in ("temperature is 0.5 here and was 1.0", "limits.max_turns is 3 here and was 16")
    ]


def test_tasks_that_changed_under_the_same_options_are_no_pairs(odd, tmp_path):
    odd("n=2", "--name", "x")
    path = tmp_path / "runs" / "x" / "episodes.jsonl"
    path.write_text(path.read_text().replace("1test?", "another?"))
    done = odd("n=2", "--compare", "x", "--name", "y")
    assert done.code == 2
    assert done.err == "cookbook: --compare x: task 1 began otherwise there; evaluate both anew\n"
    assert read_record(tmp_path / "runs" / "y")["status"] == "done"


def test_a_training_run_is_evaluated_by_its_own_model_and_options(cook, odd, tmp_path, tiny_model):
    words = [
        "env=made_up_eval:Odd",
        "env.least=3",
        "lora_rank=4",
        "steps=1",
        "groups_per_step=2",
        "eval_every=0",
    ]
    here = [*WORDS, f"model={tiny_model}"]
    assert cook("run", "core/rl", *words, "group_size=2", *here, "--name", "t").code == 0
    done = odd("n=2", "--compare", "t")
    assert (done.code, done.out) == (2, "")
    assert "t: it is no evaluation; `cookbook eval made_up_eval:Odd load=t` makes one of it" in done.err
    done = cook("eval", "made_up_eval:Odd", "load=t", "n=2", "--name", "y")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].endswith(f"by {tiny_model} with tinker://t/weights/000001")
    config = read_record(tmp_path / "runs" / "y")["config"]
    assert (config["env.least"], config["max_tokens"], config["backend.dtype"]) == (3, 4, "float32")
    done = cook("eval", "math/arithmetic", "load=t", "n=2", "--name", "z")
    assert done.code == 0
    assert done.err.startswith(
        "cookbook: plays env:math/arithmetic with max_tokens of recipe:math/arithmetic"
    )
    config = read_record(tmp_path / "runs" / "z")["config"]
    assert (config["env.digits"], config["max_tokens"], config["model"]) == (2, 8, str(tiny_model))
    done = odd("n=1", "load=")
    assert (done.code, done.err) == (0, "") and done.lines[0].endswith(f"by {tiny_model}")
    done = cook("eval", "made_up_eval:Odd", "load=y")
    assert (done.code, done.out) == (2, "") and "run y has no checkpoint" in done.err


def test_an_id_of_both_kinds_is_the_environment_with_the_recipes_values(cook):
    both = cook("eval", "math/arithmetic", "--help")
    assert (both.code, len(both.err.splitlines())) == (0, 1)
    said = "plays env:math/arithmetic with max_tokens, renderer, backend, model of recipe:math/arithmetic"
    assert both.err == f"cookbook: {said}; env:math/arithmetic leaves that out\n"
    lines = {line.split()[0]: " ".join(line.split()) for line in both.lines if line}
    assert "8 (from recipe)" in lines["max_tokens"] and "lora_rank" not in lines
    assert "'SmolLM2-135M-Instruct' (from recipe)" in lines["model"] and "100 (default)" in lines["n"]
    done = cook("eval", "math/arithmetic", "--local", "max_tokens=16", "--help")
    assert (done.code, done.err) == (0, "")  # of the recipe nothing is left
    alone = cook("eval", "env:math/arithmetic", "--local", "--help")
    lines = {line.split()[0]: " ".join(line.split()) for line in alone.lines if line}
    assert alone.err == "" and "256 (default)" in lines["max_tokens"] and "(from local)" in lines["model"]
    recipe = cook("eval", "recipe:math/gsm8k", "--local", "--help")
    lines = {line.split()[0]: " ".join(line.split()) for line in recipe.lines if line}
    assert (
        recipe.err == ""
        and "'sample' (from local)" in lines["env.source"]
        and "64 (from local)" in lines["max_tokens"]
    )


def test_help_without_an_id_tells_the_options(cook):
    for words in (["--help"], ["-h"], ["n=3", "--local", "--help"]):
        done = cook("eval", *words)
        assert (done.code, done.err) == (0, "") and "--compare RUN" in done.out
    first = cook("eval", "--help", "env:math/arithmetic")
    assert first.out == cook("eval", "env:math/arithmetic", "-h").out and "env.digits" in first.out


def test_a_dry_run_shows_the_prompt_and_the_cost_and_plays_nothing(odd, tmp_path):
    done = odd("n=3", "samples=2", "--dry-run")
    assert (done.code, done.err) == (0, "") and "the evaluation: 3 tasks x 2 tables = 6 episodes" in done.out
    assert "trained" not in done.out and not (tmp_path / "runs").exists()
    done = odd("n=3", "--dry-run", "--compare", "gone")
    assert (done.code, done.out) == (2, "") and "there is no run 'gone'" in done.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "`cookbook eval` needs an environment or a recipe first; `cookbook list env`"),
        (["n=3"], "`cookbook eval` needs an environment or a recipe first"),
        (
            ["core/tinker"],
            "core/tinker is a backend, which can't be played; `cookbook list env` shows what can",
        ),
        (["math/arithmetics"], "did you mean math/arithmetic?"),
        (["env:math/arithmetic"], "model not given: add model=..."),
        (["chat/sft"], "env not given: add env=..."),
        (["math/arithmetic", "steps=3"], "there is no option 'steps'"),
        (
            ["math/arithmetic", "env=math/countdown"],
            "env=math/countdown is given besides math/arithmetic; keep",
        ),
        (["math/arithmetic", "--frob"], "there is no flag '--frob'"),
        (["math/arithmetic", "--compare", "gone"], "there is no run 'gone'"),
        (["math/arithmetic", "load=gone"], "there is no run 'gone'"),
        (["math/arithmetic", "--name", "../x"], "--name '../x': must be letters"),
        (["made_up_nowhere:Env", "model=x"], "No module named 'made_up_nowhere'"),
    ],
)
def test_what_is_no_evaluation_is_one_line_and_leaves_no_folder(cook, tmp_path, words, line):
    done = cook("eval", *words)
    said = [each for each in done.err.splitlines() if not each.startswith("cookbook: plays env:")]
    assert (done.code, done.out, len(said)) == (2, "", 1)
    assert line in said[0] and not (tmp_path / "runs").exists()


def test_a_failed_evaluation_says_how_to_go_on_and_resume_does(odd, cook, tmp_path):
    broken = ENVS.replace(
        "return Grade(", 'if "1t" in prompt[0]["content"]: raise OSError("lost")\n        return Grade('
    )
    (tmp_path / "made_up_eval.py").write_text(broken)
    done = odd("n=3", "max_concurrent=1", "--name", "x")
    assert (done.code, done.err) == (1, "cookbook: lost; `cookbook resume x` goes on after task 0\n")
    assert cook("runs").lines[1].split() == ["x", "failed", "1"]
    (tmp_path / "made_up_eval.py").write_text(ENVS)
    sys.modules.pop("made_up_eval")
    done = cook("resume", "x")
    assert done.code == 0 and done.lines[-1] == f"run {tmp_path / 'runs' / 'x'}"
    once = json.loads(odd("n=3", "--json").out)
    (row,) = read_rows(tmp_path / "runs" / "x", "evaluations.jsonl")
    assert {name: row[f"eval/{name}"] for name in ("correct", "tasks", "n")} == {
        name: once[name] for name in ("correct", "tasks", "n")
    }
    done = cook("resume", "x")
    assert done.code == 2 and "x is done; `cookbook run --from x` runs it again" in done.err


def test_runs_tells_how_many_tasks_a_killed_evaluation_has_played(odd, cook, tmp_path):
    odd("n=3", "--name", "x")
    folder = tmp_path / "runs" / "x"
    (folder / "evaluations.jsonl").write_text("")
    record = read_record(folder) | {"status": "running", "last_step": 0}
    (folder / "record.json").write_text(json.dumps(record))
    assert cook("runs").lines[1].split() == ["x", "killed", "3"]


@pytest.mark.embedded
def test_the_embedded_model_is_evaluated_alone_as_beside_its_training(cook, tmp_path):
    words = ["run", "math/arithmetic", "steps=0", "eval_tasks=12", "eval_temperature=0.5", "--name", "beside"]
    assert cook(*words).code == 0
    done = cook("eval", "math/arithmetic", "n=12", "temperature=0.5", "--json")
    alone, (beside,) = json.loads(done.out), read_rows(tmp_path / "runs" / "beside", "evaluations.jsonl")
    assert {name: alone[name] for name in ("right", "wrong", "reward", "n")} == {
        name: beside[f"eval/{name}"] for name in ("right", "wrong", "reward", "n")
    }
