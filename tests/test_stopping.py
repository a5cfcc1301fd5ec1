"""A run goes on where it stopped or failed, to the same bits."""

from __future__ import annotations

import asyncio

import pytest

from cookbook import Step
from cookbook.kinds import Tracker
from cookbook.runs import CHECKPOINTS, ROWS, Run, read_rows
from cookbook.schedule import Stopped


def varied(reply):
    """No two letters have one reward, so that nearly every group teaches something."""
    return Step(float(ord(reply["content"][0]) % 8), True)


class Listener(Tracker):
    def __init__(self):
        self.heard = []

    def log(self, step, row):
        self.heard.append(("step", step))

    def evaluation(self, version, row):
        assert {"eval/n", "eval/correct"} <= row.keys()
        self.heard.append(("evaluation", version))


class Stops(Listener):
    """Asks for the end when it hears of a step, and from then on sampling takes its time."""

    def __init__(self, run, step):
        super().__init__()
        self.run, self.step = run, step

    def log(self, step, row):
        super().log(step, row)
        if step + 1 == self.step:
            self.run.stop.set()

    async def slow(self, name, version, *facts):
        for _ in range(200 if name == "sample" and self.run.stop.is_set() else 0):
            await asyncio.sleep(0)


def attempt(train, cfg, run):
    """Trains and ends the run, as the command line does; what it raised."""
    try:
        train(cfg, run)
    except Exception as e:
        run.end("interrupted" if isinstance(e, Stopped) else "failed")
        return e
    run.end("done")
    return None


def written(folder):
    """All that a run wrote but its checkpoints, times apart."""
    found = {name: read_rows(folder, name) for name in ROWS}
    for row in found["metrics.jsonl"]:
        for name in [name for name in row if name.startswith("time/")]:
            del row[name]
    return found


@pytest.fixture
def long(config, letters):
    """Six steps, each with a gradient, so that the fake's version is the number of steps."""

    def long(client, **values):
        return config(client, env=letters(answer=varied), steps=6, log_episodes=2, **values)

    return long


@pytest.mark.parametrize("max_lag", [0, 2])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_that_was_asked_to_stop_goes_on_to_the_same_bits(
    long, train, tmp_path, fake_client, at, max_lag
):
    values = {"eval_every": 2, "save_every": 5, "max_lag": max_lag}
    assert attempt(train, long(fake_client(), **values), Run(tmp_path / "whole", {})) is None
    run = Run(tmp_path / "r", {})
    run.trackers.append(stops := Stops(run, at))
    assert isinstance(attempt(train, long(fake_client(stops.slow), **values), run), Stopped)
    row = read_rows(tmp_path / "r", CHECKPOINTS)[-1]
    assert at <= row["step"] == row["optimizer_steps"] == len(read_rows(tmp_path / "r")) <= at + max_lag
    again = Run.reopen(tmp_path / "r")
    assert again.step == row["step"]
    client = fake_client(version=again.step)
    assert attempt(train, long(client, **values), again) is None
    assert client.calls[0] == f"load {row['path']}"
    assert again.record["resumed"][0]["step"] == row["step"]
    assert written(tmp_path / "r") == written(tmp_path / "whole")


@pytest.mark.parametrize("max_lag", [0, 2])
def test_a_run_that_failed_goes_on_from_its_checkpoint_to_the_same_bits(
    long, train, tmp_path, fake_client, max_lag
):
    values = {"eval_every": 2, "save_every": 2, "max_lag": max_lag}
    run = Run(tmp_path / "whole", {})
    run.trackers.append(whole := Listener())
    assert attempt(train, long(fake_client(), **values), run) is None

    async def before(name, version, *facts):
        if name == "optim_step" and version == 4:
            raise OSError("the service is gone")

    run = Run(tmp_path / "r", {})
    run.trackers.append(first := Listener())
    assert isinstance(attempt(train, long(fake_client(before), **values), run), OSError)
    (row,) = read_rows(tmp_path / "r", CHECKPOINTS)
    with (tmp_path / "r" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')  # as a kill leaves it
    again = Run.reopen(tmp_path / "r")
    again.trackers.append(second := Listener())
    client = fake_client(version=2)
    assert attempt(train, long(client, **values), again) is None
    assert row["step"] == again.step == 2
    paths = [opened["model_path"] for opened in client.opened]
    assert paths[: len(row.get("samplers", {}))] == list(row.get("samplers", {}).values())
    assert list(row.get("samplers", {})) == (["0", "1"] if max_lag else [])
    assert written(tmp_path / "r") == written(tmp_path / "whole")
    steps = [[at for kind, at in listener.heard if kind == "step"] for listener in (whole, first, second)]
    assert steps == [[0, 1, 2, 3, 4, 5], [0, 1, 2], [2, 3, 4, 5]]
    versions = [
        [at for kind, at in listener.heard if kind == "evaluation"] for listener in (whole, first, second)
    ]
    assert versions == [[0, 2, 4, 6], [0, 2], [2, 4, 6]]


def test_a_run_that_was_asked_to_stop_before_its_first_step_has_nothing_to_save(
    long, train, tmp_path, fake_client
):
    run = Run(tmp_path / "r", {})
    run.trackers.append(stops := Stops(run, 0))
    run.stop.set()
    client = fake_client(stops.slow)
    assert isinstance(attempt(train, long(client), run), Stopped)
    assert client.calls == ["publish 0"] and read_rows(tmp_path / "r", CHECKPOINTS) == []
    assert attempt(train, long(fake_client()), Run.reopen(tmp_path / "r")) is None
    assert attempt(train, long(fake_client()), Run(tmp_path / "whole", {})) is None
    assert written(tmp_path / "r") == written(tmp_path / "whole")


def test_only_the_checkpoints_of_the_rule_are_kept(long, train, tmp_path, fake_client):
    client = fake_client()
    train(long(client, eval_every=0, save_every=1, keep_last=1, keep_every=3), tmp_path / "r")
    gone = [call for call in client.calls if call.startswith("delete")]
    assert gone == [f"delete tinker://fake/weights/00000{step}" for step in (1, 2, 4, 5)]
