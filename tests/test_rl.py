"""The loop: order of calls, exact repetition, and that nothing outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import chz
import pytest

from cookbook import EnvConfig, Step
from cookbook.errors import ConfigError, EnvError
from cookbook.rl import Order
from cookbook.runs import Run, read_record, read_rows
from cookbook_plugin_local.backend import TorchBackend
from cookbook_plugin_math.arithmetic import Arithmetic


def test_gradient_update_and_publication_are_submitted_in_this_order(config, train, tmp_path, fake_client):
    client = fake_client()
    train(config(client, steps=2, eval_every=0, save_every=1), tmp_path / "r")
    kinds = [call.split()[0] for call in client.calls]
    step = ["forward_backward", "optim_step", "publish", "save_state"]
    assert kinds == ["publish", *step, *step] and client.closed
    assert [c for c in client.calls if c.startswith("save")] == ["save_state 000001", "save_state 000002"]


@pytest.mark.parametrize("max_lag", [0, 2])
def test_no_episode_is_older_than_max_lag(config, train, tmp_path, fake_client, max_lag):
    found = train(config(fake_client(), steps=6, eval_every=0, max_lag=max_lag), tmp_path / "r")
    assert [row["version"] for row in found] == [max(0, step - max_lag) for step in range(6)]


def test_a_batch_that_trains_nothing_takes_no_optimizer_step_and_still_counts(
    config, train, letters, tmp_path, fake_client
):
    client = fake_client()
    same = letters(answer=lambda reply: Step(1.0, True))
    found = train(config(client, env=same, steps=3, eval_every=0), tmp_path / "r")
    assert [row["step"] for row in found] == [0, 1, 2] and found[0]["groups/constant"] == 1
    assert client.calls == ["publish 0", "save_state 000003"]  # the same weights serve every version
    assert read_rows(tmp_path / "r", "checkpoints.jsonl")[0]["optimizer_steps"] == 0


def test_evaluation_plays_named_versions_of_the_held_out_tasks_in_order(config, train, tmp_path, fake_client):
    found = train(config(fake_client(), steps=5, eval_every=2), tmp_path / "r")
    evaluated = read_rows(tmp_path / "r", "evaluations.jsonl")
    assert [row["version"] for row in evaluated] == [0, 2, 4, 5]
    assert all(row["eval/n"] == 3 and "reward" not in row and "step" not in row for row in evaluated)
    assert [row["step"] for row in found] == list(range(5))
    assert not any(name.startswith("eval") for row in found for name in row)


def test_other_environments_are_evaluated_under_names_of_their_own(
    config, train, letters, tmp_path, fake_client
):
    cfg = config(fake_client(), steps=1, evals=(letters(), letters()))
    train(cfg, tmp_path / "r")
    before, after = read_rows(tmp_path / "r", "evaluations.jsonl")
    assert (before["version"], after["version"]) == (0, 1)
    assert {"eval/correct", "eval.0/correct", "eval.1/correct"} <= set(before) & set(after)


def test_zero_steps_evaluate_and_train_nothing(config, train, tmp_path, fake_client):
    client = fake_client()
    assert train(config(client, steps=0), tmp_path / "r") == []
    assert client.calls == ["publish 0"]
    assert [row["version"] for row in read_rows(tmp_path / "r", "evaluations.jsonl")] == [0]


def local(config, tiny_model, **values):
    backend = TorchBackend(dtype="float32", token_budget=256)
    return config(None, backend=backend, model=str(tiny_model), env=Arithmetic(examples=0), **values)


@pytest.mark.parametrize("max_lag", [0, 2])
def test_two_runs_with_one_seed_give_the_same_metrics_bit_for_bit(
    config, train, tiny_model, tmp_path, max_lag
):
    # The tiny model never adds right, so the reward is made of the reply itself.
    @chz.chz
    class Spelling(EnvConfig):
        def tasks(self, split):
            return [Vowels(i) for i in range(20)]

    values = {"max_lag": max_lag, "steps": 5, "lr": 1e-2, "lora_rank": 4, "save_every": 2}
    cfg = chz.replace(local(config, tiny_model, **values), env=Spelling())
    first, second = train(cfg, tmp_path / "a"), train(cfg, tmp_path / "b")
    assert first == second
    for name in ("episodes.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text() != ""
    assert all("eval/reward" in row for row in read_rows(tmp_path / "a", "evaluations.jsonl"))
    assert any(row.get("train/grad_norm") for row in first)
    other = train(chz.replace(cfg, seed=1), tmp_path / "c")
    assert other != first


class Vowels:
    def __init__(self, i):
        self.i = i

    def table(self):
        return [self]

    async def start(self):
        return [{"role": "user", "content": f"{self.i}?"}]

    async def step(self, reply):
        return Step(sum(ord(c) % 7 for c in reply["content"]) / 10, True)


def test_rollouts_with_arithmetic_run_on_the_local_engine(config, train, tiny_model, tmp_path):
    found = train(local(config, tiny_model, steps=1), tmp_path / "r")
    assert [row["n"] for row in found] == [8]


def boom(reply):
    raise ZeroDivisionError("of the env")


def hold_and_fail(which, when_version):
    """Holds every sample until `which` fails at a version."""

    async def before(name, version, *facts):
        if name == which and version >= when_version:
            raise OSError(f"{name} failed")
        if name == "sample" and version > 0:
            await asyncio.Event().wait()

    return before


@pytest.mark.parametrize("max_lag", [0, 2])
def test_no_task_survives_an_env_that_raises(config, train, letters, tmp_path, fake_client, max_lag):
    cfg = config(fake_client(), env=letters(answer=boom), max_lag=max_lag)
    with pytest.raises(ZeroDivisionError, match="of the env"):
        train(cfg, tmp_path / "r")


@pytest.mark.parametrize("which", ["sample", "publish", "optim_step", "forward_backward", "save_state"])
@pytest.mark.parametrize("max_lag", [0, 2])
def test_no_task_survives_a_call_that_fails_while_others_wait(
    config, train, tmp_path, fake_client, which, max_lag
):
    client = fake_client(hold_and_fail(which, 1))
    with pytest.raises(OSError, match=f"{which} failed"):
        train(config(client, max_lag=max_lag, save_every=1, steps=8), tmp_path / "r")
    assert client.closed


def test_no_task_survives_a_sampler_that_fails_while_publish_waits(config, train, tmp_path, fake_client):
    publishing = asyncio.Event()

    async def before(name, version, *facts):
        if name == "publish" and version == 1:
            publishing.set()
            for _ in range(20):
                await asyncio.sleep(0)
        if name == "sample" and publishing.is_set():
            raise OSError("the sampler is gone")

    with pytest.raises(OSError, match="the sampler is gone"):
        train(config(fake_client(before), max_lag=2, steps=8), tmp_path / "r")


@pytest.mark.parametrize("max_lag", [0, 2])
def test_no_task_survives_a_cancellation_during_sample(config, tmp_path, fake_client, max_lag):
    async def main():
        sampling = asyncio.Event()

        async def before(name, version, *facts):
            if name == "sample":
                sampling.set()
                await asyncio.Event().wait()

        client = fake_client(before)
        task = asyncio.create_task(config(client, max_lag=max_lag).run(Run(tmp_path / "r", {})))
        await sampling.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()} and client.closed

    asyncio.run(main())


BLOCKED = """
import threading
from hanging import *

@chz.chz
class Env(Env):
    def tasks(self, split):
        print("sampling", flush=True)  # the word that the test waits for
        threading.Event().wait()
"""
HANGING = """
import asyncio, chz, sys
from pathlib import Path
from cookbook import BackendConfig, EnvConfig, Step

class Never:
    def table(self): return [self]
    async def start(self): return [{"role": "user", "content": "?"}]
    async def step(self, reply): return Step(0.0, True)
    async def close(self):
        print("closing", flush=True)
        if STUBBORN: await asyncio.Event().wait()

@chz.chz
class Env(EnvConfig):
    def tasks(self, split): return [Never()] if split == "train" else []

class Client:
    def create_lora_training_client(self, *a, **k): return self.now(self)
    def save_weights_and_get_sampling_client(self): return self.now(self)
    def create_rest_client(self): return self
    async def now(self, x): return x
    async def sample(self, **k):
        print("sampling", flush=True)
        await asyncio.Event().wait()
    def __enter__(self): return self
    def __exit__(self, *error): print("closed", flush=True)

@chz.chz
class Backend(BackendConfig):
    def connect(self, run_dir): return Client()
    def tokenizer(self, model):
        from cookbook.rendering import load_tokenizer
        return load_tokenizer(model)
"""


def test_ctrl_c_twice_ends_a_call_that_blocks_the_loop(tiny_model, tmp_path):
    (tmp_path / "hanging.py").write_text(HANGING)
    (tmp_path / "blocked.py").write_text(BLOCKED)
    words = ["run", "core/rl", "env=blocked:Env", "backend=hanging:Backend", "renderer=core/chatml"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cookbook.cli", *words, f"model={tiny_model}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        await_line(process, "sampling")
        process.send_signal(signal.SIGINT)
        # A second press that comes before the first was seen counts as one.
        assert process.stderr.readline() == "cookbook: stopping; once more to wait for nothing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (130, "cookbook: interrupted\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_says_so(tiny_model, tmp_path, presses, signum):
    process = hang(tmp_path, tiny_model, HANGING.replace("STUBBORN", str(presses == 2)))
    try:
        await_line(process, "sampling")
        process.send_signal(signum)
        if presses == 2:
            await_line(process, "closing")
            process.send_signal(signum)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + signum, err
    assert err.splitlines() == [
        "cookbook: saving, then stopping; once more to wait for nothing",
        "cookbook: interrupted; `cookbook resume r` goes on after step 0",
    ]
    assert "closed" in out
    assert read_record(tmp_path / "runs" / "r")["status"] == "interrupted"


def test_a_signal_before_the_loop_cancels_what_is_being_built(tiny_model, tmp_path):
    building = """
    async def create_lora_training_client(self, *a, **k):
        print("building", flush=True)
        await asyncio.Event().wait()
    def save_weights"""
    process = hang(tmp_path, tiny_model, HANGING.replace("\n    def save_weights", building, 1))
    try:
        await_line(process, "building")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, err
    assert err == "cookbook: stopping; once more to wait for nothing\ncookbook: interrupted\n"
    assert "closed" in out and not (tmp_path / "runs").exists()


def hang(here, model, code):
    """A run of the recipe in a process of its own, which waits for ever."""
    (here / "hanging.py").write_text(code)
    ids = ["env=hanging:Env", "backend=hanging:Backend", "renderer=core/chatml"]
    words = ["run", "core/rl", *ids, "groups_per_step=1", "group_size=2", "--name", "r"]
    return subprocess.Popen(
        [sys.executable, "-m", "cookbook.cli", *words, f"model={model}"],
        cwd=here,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "COOKBOOK_RUNS": str(here / "runs")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_line(process, word):
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"{word!r} never came: {process.stderr.read()}")


def test_epochs_are_shuffled_by_seed_and_each_task_comes_once_an_epoch(config, fake_client):
    cfg = config(fake_client(), groups_per_step=2)
    order = Order(cfg)
    tasks = list(order._tasks)
    seen = [tasks.index(order.task(step, group)) for step in range(6) for group in range(2)]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6)) and seen[:6] != seen[6:]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"group_size": 1}, "group_size=1: must be 2 or more"),
        ({"steps": -1}, "steps=-1: must be 0 or more"),
        ({"lr": 2.0}, r"lr=2.0: must be in \[0, 1\)"),
        ({"advantage": "magic"}, "advantage='magic': must be one of mean"),
        ({"eval_temperature": -0.5}, "must be 0"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(config, values, line):
    with pytest.raises(ConfigError, match=line):
        config(None, **values)


def test_a_linear_learning_rate_falls_to_its_share_of_one_step(config):
    cfg = config(None, steps=4, lr=0.4, lr_schedule="linear")
    assert [cfg.adam(step, 4).learning_rate for step in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert config(None, lr=0.4).adam(3, 4).learning_rate == 0.4
    cosine = config(None, lr=0.4, lr_schedule="cosine", warmup_steps=2)
    assert [cosine.adam(step, 4).learning_rate for step in range(4)] == pytest.approx([0.2, 0.4, 0.4, 0.2])
    assert config(None, lr=0.4, warmup_steps=9).adam(3, 4).learning_rate == pytest.approx(0.4 * 4 / 9)


def test_an_env_without_training_tasks_is_refused_before_anything_is_written(
    config, train, tmp_path, fake_client
):
    @chz.chz
    class Empty(EnvConfig):
        def tasks(self, split):
            return []

    with pytest.raises(ConfigError, match="Empty has no training tasks"):
        train(config(fake_client(), env=Empty()), tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        (None, "gave NoneType, not a sequence"),
        ((x for x in [1]), "gave generator, not a sequence"),
        (["a question"], "holds str, not Task; Question"),
    ],
)
def test_tasks_that_are_none_are_refused_before_anything_is_written(config, train, tmp_path, tasks, line):
    @chz.chz
    class Odd(EnvConfig):
        def tasks(self, split):
            return tasks

    with pytest.raises(EnvError, match=line):
        train(config(None, env=Odd()), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_model_whose_format_nobody_knows_asks_for_a_renderer(config, train, tmp_path, fake_client):
    with pytest.raises(ConfigError, match=r"no plugin knows the chat format.*renderer=\.\.\."):
        train(config(fake_client(), renderer="auto"), tmp_path / "r")


def test_a_nan_reward_ends_the_run_with_whole_lines(config, train, letters, tmp_path, fake_client):
    odd = letters(answer=lambda reply: Step(float("nan"), True))
    with pytest.raises(EnvError, match="Letter gave the reward nan"):
        train(config(fake_client(), env=odd), tmp_path / "r")
    assert read_rows(tmp_path / "r") == []
