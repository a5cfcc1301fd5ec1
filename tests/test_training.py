"""What all runs that train share: the schedule, what is kept of checkpoints, where weights come from."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import weakref
from pathlib import Path
from typing import Any

import chz
import pytest
import tinker

from cookbook.backends.base import Sampler, Trainer
from cookbook.errors import BackendError, ConfigError, CookbookError
from cookbook.kinds import BackendConfig
from cookbook.rendering import load_tokenizer
from cookbook.runs import CHECKPOINTS, Run, read_rows
from cookbook.training import Checkpoints, TrainConfig


@chz.chz
class Fake(BackendConfig):
    client: Any = None
    folder: Path = Path()

    def connect(self, run_dir):
        return self.client

    def tokenizer(self, model):
        return load_tokenizer(self.folder)


def config(client=None, tiny_model=Path(), **values):
    backend = Fake(client=client, folder=tiny_model)
    return TrainConfig(**({"model": "tiny", "backend": backend, "renderer": "core/chatml"} | values))


def rates(steps, **values):
    cfg = config(lr=0.8, **values)
    return [cfg.adam(step, steps).learning_rate for step in range(steps)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [0.8, 0.8, 0.8, 0.8]),
        ({"lr_schedule": "linear"}, [0.8, 0.6, 0.4, 0.2]),
        ({"lr_schedule": "cosine"}, [0.8, 0.4 + 0.4 * math.sqrt(0.5), 0.4, 0.4 - 0.4 * math.sqrt(0.5)]),
        ({"warmup_steps": 2}, [0.4, 0.8, 0.8, 0.8]),
        ({"warmup_steps": 2, "lr_schedule": "linear"}, [0.4, 0.8, 0.8, 0.4]),
        ({"warmup_steps": 2, "lr_schedule": "cosine"}, [0.4, 0.8, 0.8, 0.4]),
        ({"warmup_steps": 8, "lr_schedule": "linear"}, [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_the_learning_rate_of_each_step(values, expected):
    assert rates(4, **values) == pytest.approx(expected)


def test_a_schedule_never_reaches_0_before_the_last_step():
    for schedule in ("linear", "cosine"):
        assert all(rate > 0 for rate in rates(7, lr_schedule=schedule, warmup_steps=3))


def test_adam_is_tinkers_with_the_runs_decay_and_clip():
    adam = config(lr=0.1, weight_decay=0.25, grad_clip=0.5).adam(0, 1)
    assert adam == tinker.AdamParams(learning_rate=0.1, weight_decay=0.25, grad_clip_norm=0.5)


@pytest.mark.parametrize(
    ("every", "evaluated", "saved"), [(0, [], [5]), (2, [0, 2, 4, 5], [2, 4, 5]), (9, [0, 5], [5])]
)
def test_the_last_step_is_evaluated_and_saved_whatever_the_interval(every, evaluated, saved):
    cfg = config(eval_every=every, save_every=every)
    assert [step for step in range(6) if cfg.evaluates(step, 5)] == evaluated
    assert [step for step in range(1, 6) if cfg.saves(step, 5)] == saved


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"lr": 1.0}, r"lr=1.0: must be in \[0, 1\)"),
        ({"lr": math.nan}, r"lr=nan: must be in \[0, 1\)"),
        ({"grad_clip": math.inf}, "grad_clip=inf: must be 0 or more"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: must be 0 or more"),
        ({"keep_last": -1}, "keep_last=-1: must be 0 or more"),
        ({"seed": -1}, r"seed=-1: must be from 0 to 2\*\*63 - 1"),
        ({"lora_rank": 0}, "lora_rank=0: must be 1 or more"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(values, line):
    with pytest.raises(ConfigError, match=line):
        config(**values)


def begun(folder):
    run = Run(folder, {})
    run.begin()
    return run


def checkpoints(run, client, max_lag=0, **values):
    return Checkpoints(config(**values), run, Trainer(client, "cross_entropy"), client, max_lag)


async def save(made, steps, sampled=False):
    """Publishes after each of these steps where anybody samples, then saves."""
    for step in steps:
        await made.save(step)
        if sampled:
            made.published(Sampler(Any, step, f"tinker://fake/sampler_weights/{step:06d}"))


def deleted(client, what="weights"):
    paths = [call.split("/") for call in client.calls if call.startswith("delete")]
    return [int(path[-1]) for path in paths if path[-2] == what]


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "expected"),
    [
        (0, 0, []),
        (0, 2, []),  # all are kept, so for good says nothing more
        (1, 0, [1, 2, 3, 4, 5, 6]),
        (2, 4, [1, 2, 3, 5]),
        (9, 0, []),
    ],
)
def test_checkpoints_that_no_rule_keeps_are_deleted_once_oldest_first(
    tmp_path, fake_client, keep_last, keep_every, expected
):
    client, run = fake_client(), begun(tmp_path / "r")
    made = checkpoints(run, client, keep_last=keep_last, keep_every=keep_every)
    asyncio.run(save(made, range(1, 8)))
    run.end("ended")
    assert deleted(client) == expected
    assert [row["step"] for row in read_rows(run.folder, CHECKPOINTS)] == list(range(1, 8))


def test_a_checkpoint_is_deleted_only_after_its_successor_is_on_disk(tmp_path, fake_client):
    async def before(name, version, *facts):
        if name == "delete":
            rows = read_rows(tmp_path / "r", CHECKPOINTS)
            assert rows[-1]["step"] > max(deleted(client))

    client, run = fake_client(before), begun(tmp_path / "r")
    asyncio.run(save(checkpoints(run, client, keep_last=1), range(1, 4)))
    run.end("ended")
    assert deleted(client) == [1, 2]


@pytest.mark.parametrize(
    ("max_lag", "keep_last", "keep_every"), list(itertools.product([1, 2, 3], [0, 1, 2], [0, 3]))
)
def test_nothing_that_a_kept_checkpoint_or_the_next_batches_need_is_ever_deleted(
    tmp_path, fake_client, max_lag, keep_last, keep_every
):
    client, run = fake_client(), begun(tmp_path / "r")
    made = checkpoints(run, client, max_lag, keep_last=keep_last, keep_every=keep_every)
    made.published(Sampler(Any, 0, "tinker://fake/sampler_weights/000000"))
    for step in range(1, 8):
        asyncio.run(save(made, [step], sampled=True))
        gone = {call.removeprefix("delete ") for call in client.calls if call.startswith("delete")}
        rows = read_rows(run.folder, CHECKPOINTS)
        needed = [
            row
            for row in rows
            if keep_last == 0 or row in rows[-keep_last:] or (keep_every and row["step"] % keep_every == 0)
        ]
        assert list(map(int, rows[-1]["samplers"])) == list(range(max(0, step - max_lag), step))
        for row in needed:
            assert not gone & {row["path"], *row["samplers"].values()}
        assert not gone & {*made._published.values()}
        assert {*made._published} >= set(range(max(0, step - max_lag), step + 1))
        assert gone >= {row["path"] for row in rows if row not in needed}
    run.end("ended")
    assert len(set(deleted(client, "sampler_weights"))) == len(deleted(client, "sampler_weights"))


def test_published_weights_that_nobody_samples_from_are_let_go(tmp_path, fake_client):
    """A checkpoint has to name them, and needs no more of them than their path."""
    run = begun(tmp_path / "r")
    made, client = checkpoints(run, fake_client(), 1), fake_client()
    gone = weakref.ref(client)
    made.published(Sampler(client, 1, "tinker://fake/sampler_weights/000001"))
    del client
    assert gone() is None
    run.end("ended")


def test_saving_at_the_same_step_twice_or_at_the_start_saves_once(tmp_path, fake_client):
    client, run = fake_client(), begun(tmp_path / "r")
    asyncio.run(save(checkpoints(run, client), [0, 3, 3]))
    run.end("ended")
    assert client.calls == ["save_state 000003"]
    again = Run.reopen(run.folder)
    again.begin()
    made = checkpoints(again, client)

    async def go_on():
        await made.reopen()
        await save(made, [3, 4])

    asyncio.run(go_on())
    again.end("ended")
    assert client.calls == ["save_state 000003", "save_state 000004"]


def test_a_resumed_run_deletes_what_its_former_self_kept(tmp_path, fake_client):
    client, run = fake_client(), begun(tmp_path / "r")
    asyncio.run(save(checkpoints(run, client, keep_last=1), [1, 2]))
    run.end("ended")
    client.calls.clear()
    again = Run.reopen(run.folder)
    again.begin()
    asyncio.run(save(checkpoints(again, client, keep_last=1), [3]))
    again.end("ended")
    assert 2 in deleted(client) and 3 not in deleted(client)


def test_a_deletion_that_fails_does_not_end_the_run(tmp_path, fake_client):
    async def before(name, version, *facts):
        if name == "delete":
            raise BackendError("it is gone already")

    client, run = fake_client(before), begun(tmp_path / "r")
    asyncio.run(save(checkpoints(run, client, keep_last=1), [1, 2, 3]))
    run.end("ended")
    assert deleted(client) == [1, 2]


async def connected(cfg, run):
    async with cfg.connect(run) as (_, _, _, facts):
        run.begin(**facts)


def test_a_new_run_begins_with_loaded_weights_under_a_fresh_optimizer(
    tmp_path, monkeypatch, fake_client, tiny_model
):
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path))
    client, other, run = fake_client(), begun(tmp_path / "other"), Run(tmp_path / "r", {})
    asyncio.run(save(checkpoints(other, client), [1, 2]))
    other.end("done")
    asyncio.run(connected(config(client, tiny_model, load="other@1"), run))
    run.end("ended")
    assert client.calls[-1] == "load weights tinker://fake/weights/000001"
    assert run.record["loaded"] == "tinker://fake/weights/000001"


@pytest.mark.parametrize("load", ["other", "last"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_resumed_run_has_the_weights_that_it_began_with(
    tmp_path, monkeypatch, fake_client, tiny_model, caplog, load, saved
):
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path))
    client, other, run = fake_client(), begun(tmp_path / "other"), Run(tmp_path / "r", {})
    asyncio.run(save(checkpoints(other, client), [1]))
    cfg = config(client, tiny_model, load=load)
    asyncio.run(connected(cfg, run))
    asyncio.run(save(checkpoints(run, client), [5] if saved else []))
    run.end("failed")
    asyncio.run(save(checkpoints(other, client), [2]))  # it goes on meanwhile
    other.end("done")
    again = Run.reopen(run.folder)
    asyncio.run(connected(cfg, again))
    again.end("ended")
    whence = "load tinker://fake/weights/000005" if saved else "load weights tinker://fake/weights/000001"
    assert client.calls[-1] == whence
    assert again.record["loaded"] == "tinker://fake/weights/000001" and not caplog.records


def test_a_run_is_rendered_as_it_says_else_as_the_run_whose_weights_it_loads_else_as_its_model(
    tmp_path, monkeypatch, fake_client, tiny_model
):
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path))
    client, other = fake_client(), Run(tmp_path / "other", {})
    system = {"default_system": "Say moo."}
    asyncio.run(connected(config(client, tiny_model, renderer_options=json.dumps(system)), other))
    asyncio.run(save(checkpoints(other, client), [1]))
    other.end("done")
    assert other.record["renderer"]["id"] == "core/chatml" and other.record["renderer"]["options"] == system

    loaded = config(client, tiny_model, renderer="auto", load="other").render()
    assert (loaded.id, loaded.options) == ("core/chatml", system)
    own = config(client, tiny_model, renderer="core/role_colon", load="other").render()
    assert (own.id, own.options) == ("core/role_colon", {})
    elsewhere = config(client, tiny_model, renderer="auto", model="SmolLM2-1B-Instruct").render()
    assert elsewhere.id == "core/smollm2"
    with pytest.raises(ConfigError, match=r"knows the chat format of model 'tiny': give renderer=.*hf"):
        config(client, tiny_model, renderer="auto").render()


def test_a_resumed_run_keeps_the_options_that_its_renderer_was_made_with(tmp_path, fake_client, tiny_model):
    client, run = fake_client(), Run(tmp_path / "r", {})
    asyncio.run(connected(config(client, tiny_model, renderer_options='{"default_system": "a"}'), run))
    asyncio.run(save(checkpoints(run, client), [1]))
    run.end("failed")
    again = Run.reopen(run.folder)
    asyncio.run(connected(config(client, tiny_model, renderer_options='{"default_system": "b"}'), again))
    again.end("ended")
    assert again.record["renderer"]["options"] == {"default_system": "a"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("{", "renderer_options='{' is no JSON"),
        ("[]", r"renderer_options='\[\]' is no JSON object"),
        (
            '{"colour": 1}',
            "renderer core/chatml: got an unexpected keyword argument 'colour'; `cookbook show",
        ),
    ],
)
def test_options_that_a_renderer_does_not_take_are_one_line(tiny_model, options, line):
    with pytest.raises(CookbookError, match=line):
        config(tiny_model=tiny_model, renderer_options=options).render()
