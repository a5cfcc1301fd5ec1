"""The run directory, without a model."""

import errno
import fcntl
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cookbook.errors import BackendError, ConfigError, RunExistsError, UnknownIdError
from cookbook.kinds import Tracker
from cookbook.runs import (
    CHECKPOINTS,
    ROWS,
    Run,
    find_run,
    list_runs,
    new_folder,
    read_record,
    read_rows,
    runs_dir,
    status,
    weights_of,
)
from cookbook.types import Episode, Message, Turn

EPISODE = Episode(
    turns=[Turn([1, 2], [3], np.array([-0.5], np.float32), Message(role="assistant", content="é\n"), True)],
    messages=[Message(role="user", content="hi"), Message(role="assistant", content="é\n")],
    reward=0.5,
    correct=None,
    stop_reason="done",
    version=0,
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COOKBOOK_RUNS", raising=False)


def begun(name="x", *, at=0.0, **record) -> Run:
    run = Run(runs_dir() / name, record, now=lambda: at)
    run.begin()
    return run


class Listener(Tracker):
    def __init__(self, fails=()):
        self.heard, self.fails = [], fails

    def begin(self):
        self._hear("begin")

    def log(self, step, row):
        self._hear("log", step, dict(row))

    def episodes(self, step, episodes):
        self._hear("episodes", step, len(episodes))

    def close(self):
        self._hear("close")

    def _hear(self, *what):
        self.heard.append(what)
        if what[0] in self.fails:
            raise RuntimeError(f"{what[0]} failed")


def test_nothing_is_written_before_a_run_begins(tmp_path):
    run = Run(new_folder("core/rl"), {})
    run.trackers.append(listener := Listener())
    run.end("failed", error="no key")
    assert list(tmp_path.iterdir()) == []
    assert listener.heard == [("close",)]


def test_a_record_tells_how_a_run_began_and_ended():
    clock = itertools.count(1.9)
    run = Run(runs_dir() / "x", {"recipe": "core/rl"}, now=lambda: next(clock))
    run.begin(renderer="core/chatml")
    began = {
        "recipe": "core/rl",
        "renderer": "core/chatml",
        "status": "running",
        "started": "1970-01-01T00:00:01.900+00:00",
        "last_step": 0,
    }
    assert read_record(run.folder) == began
    assert [(run.folder / name).read_text() for name in (*ROWS, CHECKPOINTS)] == ["", "", "", ""]
    run.log(0, {"reward": 1.0})
    run.end("failed", error="it broke")
    ended = {
        "status": "failed",
        "ended": "1970-01-01T00:00:02.900+00:00",
        "last_step": 1,
        "error": "it broke",
    }
    assert read_record(run.folder) == began | ended


def test_a_folder_that_is_there_already_is_left_alone(tmp_path):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "record.json").write_text("mine")
    run = Run(tmp_path / "runs" / "x", {})
    with pytest.raises(RunExistsError, match="x is there already: choose another --name"):
        run.begin()
    run.end("failed")
    assert [path.read_text() for path in (tmp_path / "runs" / "x").iterdir()] == ["mine"]


@pytest.mark.parametrize("where", ["pathlib.Path.replace", "os.fsync", "os.write"])
def test_a_crash_while_the_record_is_written_leaves_the_old_one(monkeypatch, where):
    run = begun(recipe="core/rl")
    old = (run.folder / "record.json").read_bytes()

    def crash(*args, **kwargs):
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as broken, pytest.raises(OSError, match=r"no space left.*record\.json"):
        broken.setattr(where, crash)
        run.end("done")
    assert (run.folder / "record.json").read_bytes() == old
    run.end("failed")
    assert read_record(run.folder)["status"] == "failed"


def test_rows_are_whole_lines_in_the_order_they_came():
    run = begun()
    run.log(0, {"reward": 0.25, "text": "two\nlines \u2028 é"})
    run.episodes(0, [[EPISODE, EPISODE], [EPISODE]])
    run.log(1, {"reward": 0.5})
    lines = (run.folder / "metrics.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line)["step"] for line in lines[:-1]] == [0, 1]
    assert lines[-1] == b""
    assert read_rows(run.folder)[0] == {"step": 0, "reward": 0.25, "text": "two\nlines \u2028 é"}
    episodes = read_rows(run.folder, "episodes.jsonl")
    assert [(e["step"], e["group"], e["episode"]) for e in episodes] == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]
    assert episodes[2]["turns"][0]["logprobs_T"] == [-0.5]
    assert (episodes[2]["messages"][1]["content"], episodes[2]["correct"]) == ("é\n", None)


def test_half_a_character_is_written_and_read_as_it_was():
    run = begun()
    run.log(0, {"text": "a\ud800\\ud800é"})
    assert read_rows(run.folder)[0]["text"] == "a\ud800\\ud800é"
    run.end("failed", error="\udcff")
    assert read_record(run.folder)["error"] == "\udcff"


def test_half_a_line_of_a_killed_run_is_no_row():
    run = begun()
    run.log(0, {"text": "é"})
    whole = (run.folder / "metrics.jsonl").read_bytes()
    for cut in range(1, len(whole)):
        (run.folder / "metrics.jsonl").write_bytes(whole + whole[:-cut])
        assert read_rows(run.folder) == [{"step": 0, "text": "é"}]


@pytest.mark.parametrize("bad", [np.float32("nan"), [np.float64("-inf")]])
def test_what_json_has_no_number_for_is_refused_and_leaves_no_half_row(bad):
    run = begun()
    run.log(0, {"reward": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.log(1, {"reward": 1.0, "loss": bad})
    assert read_rows(run.folder) == [{"step": 0, "reward": 1.0}]


def test_what_is_no_number_at_all_is_refused():
    with pytest.raises(TypeError, match="Path can't be written as JSON"):
        begun().log(0, {"where": Path()})


def test_numpys_numbers_are_numbers():
    run = begun()
    run.log(0, {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.arange(2)})
    assert read_rows(run.folder) == [{"step": 0, "a": 0.5, "b": 3, "c": True, "d": [0, 1]}]


def test_a_checkpoint_knows_how_many_rows_the_other_files_had():
    run = begun()
    first = run.checkpoint(0, "tinker://x/weights/000000", optimizer_steps=0)
    run.log(0, {"text": "é"})
    run.evaluation(0, {"eval/n": 2})
    run.evaluation(1, {"eval/n": 2})
    run.episodes(0, [[EPISODE, EPISODE], [EPISODE]])
    second = run.checkpoint(1, "tinker://x/weights/000001", optimizer_steps=1)
    run.log(1, {})
    assert read_rows(run.folder, CHECKPOINTS) == [first, second]
    assert first == {
        "step": 0,
        "path": "tinker://x/weights/000000",
        "optimizer_steps": 0,
        "rows": dict.fromkeys(ROWS, 0),
    }
    assert second["rows"] == {"metrics.jsonl": 1, "evaluations.jsonl": 2, "episodes.jsonl": 3}
    assert run.checkpoint_row == second


def test_the_last_step_counts_batches_and_no_late_evaluation_turns_it_back():
    run = begun()
    run.log(6, {"reward": 0.0})
    run.evaluation(0, {"eval/n": 2})
    assert run.record["last_step"] == 7
    run.evaluation(7, {"eval/n": 2})
    assert run.record["last_step"] == 7
    evaluated = [{"version": 0, "eval/n": 2}, {"version": 7, "eval/n": 2}]
    assert read_rows(run.folder, "evaluations.jsonl") == evaluated
    assert [row["step"] for row in read_rows(run.folder)] == [6]


def test_trackers_hear_everything_and_each_is_closed_whatever_befalls_the_others():
    run = Run(runs_dir() / "x", {})
    run.trackers += [bad := Listener(fails=["close"]), good := Listener()]
    run.begin()
    run.log(0, {"a": 1})
    run.episodes(0, [[EPISODE], [EPISODE]])
    with pytest.raises(RuntimeError, match="close failed"):
        run.end("done")
    assert bad.heard == good.heard
    assert good.heard == [("begin",), ("log", 0, {"a": 1}), ("episodes", 0, 2), ("close",)]
    assert read_record(run.folder)["status"] == "done"


def test_runs_lie_where_the_variable_says(tmp_path, monkeypatch):
    assert runs_dir() == Path("runs")
    monkeypatch.setenv("COOKBOOK_RUNS", "")
    assert runs_dir() == Path("runs")
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path / "elsewhere"))
    assert list_runs() == []
    assert begun().folder == tmp_path / "elsewhere" / "x" == list_runs()[0]


def test_a_new_folder_is_named_after_the_recipe_and_the_time():
    folders = {new_folder("math/arithmetic") for _ in range(8)}
    assert len(folders) > 1
    assert all(folder.match("runs/math-arithmetic-????????-??????-????") for folder in folders)
    assert new_folder("math/arithmetic", "first.try_2") == Path("runs/first.try_2")


def test_a_name_that_is_taken_is_refused():
    begun("x")
    with pytest.raises(RunExistsError, match="x is there already: choose another --name, or delete"):
        new_folder("core/rl", "x")


@pytest.mark.parametrize("name", ["", "a/b", "../out", "..", ".hidden", "/abs", "last", "two words", "a\nb"])
def test_a_name_that_would_lead_elsewhere_is_refused(name):
    with pytest.raises(ConfigError, match=r"--name .*must be letters"):
        new_folder("core/rl", name)


def test_runs_are_listed_by_their_start(tmp_path):
    for at, name in enumerate(["c-late", "a-early", "a-later", "a"][::-1]):
        begun(name, at=float(at))
    (tmp_path / "runs" / "not-a-run").mkdir()
    (tmp_path / "runs" / "notes.txt").touch()
    assert [folder.name for folder in list_runs()] == ["a", "a-later", "a-early", "c-late"]


@pytest.mark.parametrize("damage", ["", "{}", "[1]", "null", "{half"])
def test_a_damaged_record_takes_no_other_run_down(damage):
    begun("whole")
    begun("broken")
    (runs_dir() / "broken" / "record.json").write_text(damage)
    assert [folder.name for folder in list_runs()] == ["broken", "whole"]
    assert read_record(list_runs()[0])["status"] == "unreadable" or damage == "{}"


def test_a_number_that_is_not_finite_names_its_metric_and_writes_nothing():
    run = begun("x")
    with pytest.raises(BackendError, match="step 3: train/loss not finite; a smaller lr may help"):
        run.log(3, {"reward": 0.5, "train/loss": float("nan")})
    assert read_rows(run.folder) == []


def test_a_run_is_found_by_its_name_the_beginning_of_it_its_folder_or_as_the_last(tmp_path):
    for at, name in enumerate(["math-1", "core-1", "core-10", "chat-1"]):
        begun(name, at=float(at))
    found = {"math-1": "math-1", "ma": "math-1", "core-10": "core-10", "last": "chat-1"}
    found["core-1"] = "core-1"  # a whole name is no mere beginning
    for word, name in found.items():
        assert find_run(word) == runs_dir() / name
    assert find_run("runs/core-1") == Path("runs/core-1")
    assert find_run(str(tmp_path / "runs" / "core-1" / ".." / "math-1")).name == "math-1"


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("c", "'c' could be core-1, chat-1; give more of it"),
        ("gone", "there is no run 'gone' in runs; `cookbook runs` shows what there is"),
        ("runs/gone", "there is no run 'runs/gone' in runs"),
        ("", "there is no run '' in runs"),
    ],
)
def test_a_run_that_cannot_be_told_is_one_line(word, line):
    begun("core-1", at=0.0)
    begun("chat-1", at=1.0)
    with pytest.raises(UnknownIdError) as e:
        find_run(word)
    assert str(e.value).startswith(line)


def test_there_is_no_last_run_where_there_is_none():
    with pytest.raises(UnknownIdError, match="there is no run 'last' in runs"):
        find_run("last")


def test_weights_are_of_a_runs_last_checkpoint_or_of_the_step_that_is_named():
    run = begun("core-1")
    for step in (2, 10):
        run.checkpoint(step, f"tinker://x/weights/{step}")
    assert weights_of("core-1") == weights_of("last@10") == "tinker://x/weights/10"
    assert weights_of("core@2") == weights_of("runs/core-1@2") == "tinker://x/weights/2"
    assert weights_of("tinker://y/weights/final@3") == "tinker://y/weights/final@3"
    with pytest.raises(UnknownIdError, match="run core-1 has no checkpoint of step 3; it has 2, 10"):
        weights_of("core-1@3")
    begun("empty")
    with pytest.raises(UnknownIdError, match="run empty has no checkpoint; it has none"):
        weights_of("empty")
    with pytest.raises(UnknownIdError, match="there is no run 'gone'"):
        weights_of("gone@2")


def killed(run):
    """As the system leaves a run whose process ended, however it ended."""
    os.close(run._lock)
    run._lock = None


def test_a_run_whose_process_is_gone_was_killed():
    run = begun()
    assert status(run.folder) == "running"
    killed(run)
    assert status(run.folder) == "killed"
    assert read_record(run.folder)["status"] == "running"
    again = Run.reopen(run.folder)
    assert status(run.folder) == "running"
    again.begin()
    again.end("failed")
    assert status(run.folder) == "failed"


def test_a_run_is_cut_back_to_its_checkpoint_and_remembers_that():
    run = begun(recipe="core/rl")
    for step in range(3):
        run.log(step, {"reward": step / 2})
        run.evaluation(step, {"eval/n": 1})
        run.episodes(step, [[EPISODE]])
        if step == 1:
            run.checkpoint(2, "tinker://x/weights/2", optimizer_steps=2)
    before = {name: read_rows(run.folder, name) for name in ROWS}
    with (run.folder / CHECKPOINTS).open("a") as file:
        file.write('{"step": 3, "pa')
    run.end("failed", error="it broke")
    again = Run.reopen(run.folder)
    assert (again.step, again.checkpoint_row["path"]) == (2, "tinker://x/weights/2")
    assert {name: read_rows(run.folder, name) for name in ROWS} == before  # nothing is changed yet
    again.begin()
    assert {name: read_rows(run.folder, name) for name in ROWS} == {k: v[:2] for k, v in before.items()}
    assert (run.folder / CHECKPOINTS).read_text().count("\n") == 1
    record = read_record(run.folder)
    assert (record["status"], record["last_step"], record["resumed"][0]["step"]) == ("running", 2, 2)
    assert not {"error", "ended"} & record.keys()
    again.log(2, {"reward": 1.0})
    assert again.checkpoint(3, "p")["rows"]["metrics.jsonl"] == 3
    again.end("done")


def test_files_that_were_changed_since_the_checkpoint_are_told():
    run = begun()
    run.log(0, {})
    run.checkpoint(1, "p")
    run.end("failed")
    (run.folder / "metrics.jsonl").write_text("")
    again = Run.reopen(run.folder)
    with pytest.raises(ConfigError, match=r"metrics.jsonl has 0 rows where the checkpoint knows of 1"):
        again.begin()
    again.end("failed")


def test_a_run_that_is_done_or_runs_elsewhere_is_not_reopened():
    run = begun("x")
    with (run.folder / "lock").open() as elsewhere:
        run.end("failed")
        fcntl.flock(elsewhere, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="x is being run by another process; wait for it, or stop it"):
            Run.reopen(run.folder)
    again = Run.reopen(run.folder)
    again.begin()
    again.end("done")
    with pytest.raises(ConfigError, match="x is done; `cookbook run --from x` runs it again"):  # no weights
        Run.reopen(run.folder)
    (run.folder / "record.json").write_text("{half")
    with pytest.raises(ConfigError, match=r"record\.json can't be read"):
        Run.reopen(run.folder)
