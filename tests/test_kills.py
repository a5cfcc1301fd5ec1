"""A run that was killed anywhere, or asked to stop, and resumed is the run that never ended early, bit for
bit."""

from __future__ import annotations

import json
import os
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

crashing = runpy.run_path(str(Path(__file__).with_name("crashing.py")))
rows = crashing["rows"]
KINDS = {
    "max_lag 0": [*crashing["RL"], "max_lag=0", "steps=12", "eval_every=3", "save_every=4"],
    "max_lag 2": [*crashing["RL"], "max_lag=2", "steps=12", "eval_every=3", "save_every=4"],
    "sl": [*crashing["SL"], "steps=12", "eval_every=3", "save_every=4"],
}


@pytest.fixture(scope="module")
def cookbook(tmp_path_factory):
    with crashing["Crashing"](tmp_path_factory.mktemp("crashing")) as cookbook:
        yield cookbook


@pytest.fixture(scope="module")
def start(cookbook, tiny_model):
    """Starts run "a" of a kind; options replace the kind's own."""

    def start(runs, kind, *options, **event):
        given = {option.split("=")[0] for option in options}
        words = [word for word in KINDS[kind] if word.split("=")[0] not in given]
        return cookbook(runs, "run", *words, f"model={tiny_model}", *options, "--name", "a", **event)

    return start


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """Runs that were never killed, and the operations on files that they are made of."""
    found = {}

    def whole(kind):
        if kind not in found:
            runs = tmp_path_factory.mktemp("whole")
            result = start(runs, kind)
            assert (result.code, result.err) == (0, "")
            found[kind] = runs, result.ops
        return found[kind]

    return whole


def equal(runs, whole_runs):
    """All rows and all weights that are kept."""
    assert rows(runs) == rows(whole_runs)
    found, expected = weights(runs), weights(whole_runs)
    assert sorted(found) == sorted(expected)
    assert [path for path in found if found[path] != expected[path]] == []
    assert json.loads((runs / "a" / "record.json").read_text())["status"] == "done"
    return True


def weights(runs):
    """Headers and tensors; in the file a header has its entries in any order."""
    files = (runs / "a").glob("*weights/[!.]*/*.safetensors")
    return {str(path.relative_to(runs)): contents(path) for path in files}


def contents(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def goes_on(cookbook, runs):
    """Resumes, unless the run had written that it was done."""
    done = json.loads((runs / "a" / "record.json").read_text())["status"] == "done"
    result = cookbook(runs, "resume", "a")
    assert result.code == (2 if done else 0), result.err
    return True


def moments():
    """Ten, each a kind, a share of the operations of the whole run, and how much of one is done."""
    draw = random.Random(0)
    kinds = ["max_lag 0", "max_lag 2", "sl"] * 3 + ["max_lag 2"]
    return [(kind, draw.random(), draw.choice(["before", "half", "after"])) for kind in sorted(kinds)]


@pytest.mark.parametrize(("kind", "share", "when"), moments())
def test_a_run_killed_at_any_moment_goes_on_as_if_it_never_was(
    cookbook, start, whole, tmp_path, kind, share, when
):
    whole_runs, ops = whole(kind)
    begun = ops.index("rename a/record.json") + 1
    nth = begun + 1 + int(share * (len(ops) - begun))
    assert start(tmp_path, kind, at="", nth=nth, then="SIGKILL", when=when).code == -9
    assert goes_on(cookbook, tmp_path) and equal(tmp_path, whole_runs)


def test_a_run_killed_before_it_began_is_no_run_yet(cookbook, start, whole, tmp_path):
    assert start(tmp_path, "sl", at="write a/record", nth=1, then="SIGKILL", when="half").code == -9
    result = cookbook(tmp_path, "resume", "a")
    assert result.code == 2
    assert result.err == f"cookbook: there is no run 'a' in {tmp_path}; `cookbook runs` shows what there is\n"
    result = start(tmp_path, "sl")
    assert result.code == 2 and "delete that folder" in result.err
    shutil.rmtree(tmp_path / "a")
    assert start(tmp_path, "sl").code == 0 and equal(tmp_path, whole("sl")[0])


POINTS = [
    ("before the first checkpoint", "max_lag 2", "write a/metrics", 3, "after"),
    ("at the second version's sampler", "max_lag 2", "write a/sampler_weights/.000002", 1, "half"),
    ("amid a checkpoint's weights", "max_lag 0", "write a/weights/.000008.part/lora", 1, "half"),
    ("amid a checkpoint's optimizer state", "sl", "write a/weights/.000008.part/adam", 1, "half"),
    ("between a state and its row", "max_lag 0", "rename a/weights/000008", 1, "after"),
    ("between a state and its row", "max_lag 2", "rename a/weights/000008", 1, "after"),
    ("amid a row of metrics", "max_lag 0", "write a/metrics", 7, "half"),
    ("amid a row of evaluations", "max_lag 2", "write a/evaluations", 3, "half"),
    ("amid an episode", "max_lag 2", "write a/episodes", 30, "half"),
    ("amid a checkpoint's row", "max_lag 2", "write a/checkpoints", 2, "half"),
    ("amid the first checkpoint's row", "sl", "write a/checkpoints", 1, "half"),
    ("amid the record of the end", "sl", "write a/record", 2, "half"),
    ("before the record of the end counts", "max_lag 2", "rename a/record", 2, "before"),
]


@pytest.mark.parametrize(
    ("kind", "at", "nth", "when"), [p[1:] for p in POINTS], ids=[f"{p[1]}, {p[0]}" for p in POINTS]
)
def test_a_run_killed_at_the_worst_moments_goes_on_too(cookbook, start, whole, tmp_path, kind, at, nth, when):
    assert start(tmp_path, kind, at=at, nth=nth, then="SIGKILL", when=when).code == -9
    assert goes_on(cookbook, tmp_path) and equal(tmp_path, whole(kind)[0])


@pytest.mark.parametrize(
    ("at", "nth", "when"),
    [
        ("truncate a/metrics", 1, "after"),
        ("truncate a/checkpoints", 1, "after"),
        ("rename a/record", 1, "before"),
        ("rename a/weights/.000008.old", 1, "after"),
        ("rename a/weights/000008", 1, "after"),
        ("rename a/sampler_weights/.000004.old", 1, "after"),
    ],
)
def test_a_resume_that_is_killed_is_resumed(cookbook, start, whole, tmp_path, at, nth, when):
    kind = "max_lag 2"
    killed = {"at": "rename a/weights/000008", "nth": 1, "then": "SIGKILL", "when": "after"}
    assert start(tmp_path, kind, **killed).code == -9
    assert cookbook(tmp_path, "resume", "a", at=at, nth=nth, then="SIGKILL", when=when).code == -9
    assert goes_on(cookbook, tmp_path) and equal(tmp_path, whole(kind)[0])


def test_the_program_itself_resumes_a_killed_run(start, whole, tmp_path):
    assert start(tmp_path, "sl", at="write a/metrics", nth=6, then="SIGKILL").code == -9
    (tmp_path / "crashable.py").write_text(crashing["MODULE"])
    environment = os.environ | {"COOKBOOK_RUNS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cookbook.cli", "resume", "last"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and "goes on after step 4" in done.stdout
    assert equal(tmp_path, whole("sl")[0])


# An evaluation follows the sixth.
@pytest.mark.parametrize(("step", "name", "code"), [(5, "SIGTERM", 143), (6, "SIGINT", 130)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_asked_to_end_saves_a_whole_step_and_goes_on_from_it(
    cookbook, start, whole, tmp_path, kind, step, name, code
):
    result = start(tmp_path, kind, at="write a/metrics", nth=step, then=name, when="after")
    assert result.code == code, result.err
    saved = rows(tmp_path)["checkpoints.jsonl"]
    stopped = saved[-1]["step"]
    assert [row["step"] for row in saved] == [4, stopped] and step <= stopped < 8
    assert result.err.splitlines() == [
        "cookbook: saving, then stopping; once more to wait for nothing",
        f"cookbook: interrupted; `cookbook resume a` goes on after step {stopped}",
    ]
    assert goes_on(cookbook, tmp_path)
    found, expected = rows(tmp_path), rows(whole(kind)[0])
    assert [row["step"] for row in found.pop("checkpoints.jsonl")] == [4, stopped, 8, 12]
    del expected["checkpoints.jsonl"]
    assert found == expected
    kept = weights(tmp_path)
    assert [path for path, data in weights(whole(kind)[0]).items() if kept[path] != data] == []


@pytest.mark.parametrize(("at", "nth"), [("rename a/weights/000012", 1), ("write a/checkpoints", 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_at_the_last_checkpoint_leaves_no_row_twice(cookbook, start, whole, tmp_path, kind, at, nth):
    result = start(tmp_path, kind, at=at, nth=nth, then="SIGTERM", when="after")
    assert result.code in (0, 143), result.err
    assert goes_on(cookbook, tmp_path) and equal(tmp_path, whole(kind)[0])


def steps_of(folder):
    """Of weights that are on disk."""
    return sorted(int(path.name) for path in folder.glob("[!.]*"))


@pytest.mark.parametrize("kind", ["max_lag 2", "sl"])
def test_what_no_rule_keeps_is_deleted_and_what_a_resume_needs_never_is(
    cookbook, start, whole, tmp_path, kind
):
    rule = ("keep_last=2", "keep_every=6", "save_every=2")
    killed = {"at": "write a/metrics", "nth": 11, "then": "SIGKILL"}
    assert start(tmp_path, kind, *rule, **killed).code == -9
    assert steps_of(tmp_path / "a" / "weights") == [6, 8, 10]
    if kind == "max_lag 2":  # of 6: 4 and 5; of 8: 6 and 7; of 10: 8 and 9; then what runs
        assert steps_of(tmp_path / "a" / "sampler_weights") == [4, 5, 6, 7, 8, 9, 10, 11]
    assert goes_on(cookbook, tmp_path)
    found, expected = rows(tmp_path), rows(whole(kind)[0])
    for file in ("metrics.jsonl", "evaluations.jsonl", "episodes.jsonl"):
        assert found[file] == expected[file]
    assert steps_of(tmp_path / "a" / "weights") == [6, 10, 12]
    if kind == "max_lag 2":
        assert steps_of(tmp_path / "a" / "sampler_weights") == [4, 5, 8, 9, 10, 11, 12]


@pytest.mark.parametrize("step", [2, 4])  # 4 goes as 6, the last, is saved: nothing else is saved after it
@pytest.mark.parametrize("at", ["rename", "unlink", "rmdir"])
def test_a_run_killed_while_it_deletes_leaves_nothing_behind(cookbook, start, tmp_path, at, step):
    rule = ("keep_last=1", "save_every=2", "steps=6", "eval_every=0")
    killed = {"at": rf"{at} a/weights/\.{step:06d}\.part", "nth": 1, "then": "SIGKILL"}
    for runs, event in (("killed", killed), ("whole", {})):
        assert start(tmp_path / runs, "sl", *rule, **event).code == (-9 if event else 0)
    assert goes_on(cookbook, tmp_path / "killed") and equal(tmp_path / "killed", tmp_path / "whole")
    assert [path.name for path in (tmp_path / "killed" / "a" / "weights").iterdir()] == ["000006"]


def test_load_begins_with_the_weights_of_a_step_under_a_fresh_optimizer(cookbook, start, tmp_path):
    assert start(tmp_path, "sl").code == 0
    for name, load in (("final", "a"), ("fourth", "a@4")):
        options = (f"load={load}", "lr=0", "steps=1", "--name", name)
        result = cookbook(tmp_path, "run", "--from", "a", *options)
        assert result.code == 0, result.err
    saved = tmp_path / "a" / "weights"
    for name, folder in (("final", "000012"), ("fourth", "000004")):
        mine = tmp_path / name / "weights" / "000001"
        assert same(load_file(mine / "lora.safetensors"), load_file(saved / folder / "lora.safetensors"))
        counts = {float(v) for k, v in load_file(mine / "adam.safetensors").items() if k.endswith("/step")}
        assert counts == {1.0}  # of Adam's updates
        assert rows(tmp_path, name)["checkpoints.jsonl"][0]["optimizer_steps"] == 1
    last = rows(tmp_path)["evaluations.jsonl"][-1]
    assert rows(tmp_path, "final")["evaluations.jsonl"][0] == last | {"version": 0}
    result = cookbook(tmp_path, "run", "--from", "a", "load=a@5")
    assert (result.code, result.err) == (2, "cookbook: run a has no checkpoint of step 5; it has 4, 8, 12\n")


def same(some, others):
    return some.keys() == others.keys() and all((some[name] == others[name]).all() for name in some)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_from_another_has_its_config_and_its_bits(cookbook, start, tmp_path, kind):
    assert start(tmp_path, kind, "steps=3").code == 0
    result = cookbook(tmp_path, "run", "--from", "a", "--name", "b")
    assert (result.code, result.err) == (0, "")
    first, second = (json.loads((tmp_path / name / "record.json").read_text()) for name in "ab")
    assert first["config"] == second["config"]
    found, expected = rows(tmp_path, "b"), rows(tmp_path, "a")
    assert all(found[name] == expected[name] for name in found if name != "checkpoints.jsonl")


@pytest.mark.embedded
def test_the_embedded_model_goes_on_with_equal_bits(cookbook, tmp_path):
    words = "run math/arithmetic --local steps=4 groups_per_step=4 group_size=4 eval_tasks=8 eval_every=2"
    words = [*words.split(), "save_every=2", "max_lag=1", "max_tokens=16", "--name", "a"]
    result = cookbook(tmp_path / "whole", *words)
    assert result.code == 0, result.err
    killed = {"at": "write a/metrics", "nth": 4, "then": "SIGKILL", "when": "half"}
    assert cookbook(tmp_path / "killed", *words, **killed).code == -9
    assert goes_on(cookbook, tmp_path / "killed") and equal(tmp_path / "killed", tmp_path / "whole")
