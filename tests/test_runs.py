"""The run directory, without a model."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from cookbook.configs import Tracker
from cookbook.errors import BackendError, ConfigError, RunExistsError
from cookbook.runs import JSON_LINES, Run, list_runs, new_folder, read_record, read_rows, runs_dir
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
    assert [(run.folder / name).read_text() for name in JSON_LINES] == ["", "", ""]
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


@pytest.mark.parametrize("where", ["pathlib.Path.replace", "os.fsync", "json.dump"])
def test_a_crash_while_the_record_is_written_leaves_the_old_one(monkeypatch, where):
    run = begun(recipe="core/rl")
    old = (run.folder / "record.json").read_bytes()

    def crash(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="no space left"):
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


def test_a_checkpoint_knows_how_long_the_other_files_were():
    run = begun()
    run.checkpoint(0, "tinker://x/weights/000000", 0)
    run.log(0, {"text": "é"})
    run.episodes(0, [[EPISODE]])
    sizes = {name: (run.folder / name).stat().st_size for name in JSON_LINES[:2]}
    run.checkpoint(1, "tinker://x/weights/000001", 1)
    run.log(1, {})
    rows = read_rows(run.folder, "checkpoints.jsonl")
    assert [row["offsets"] for row in rows] == [dict.fromkeys(JSON_LINES[:2], 0), sizes]
    assert rows[1] | {"offsets": None} == {
        "step": 1,
        "path": "tinker://x/weights/000001",
        "optimizer_steps": 1,
        "offsets": None,
    }


def test_the_last_step_counts_batches_and_no_late_evaluation_turns_it_back():
    run = begun()
    run.log(6, {"reward": 0.0})
    run.write(0, {"version": 0, "eval/n": 2})
    assert run.record["last_step"] == 7
    run.write(7, {"version": 7, "eval/n": 2})
    assert run.record["last_step"] == 7


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
