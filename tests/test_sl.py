"""Supervised learning: what goes on the wire, in which order, and that a run can be repeated."""

from __future__ import annotations

import asyncio
import gc
import math
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import tinker

from cookbook.errors import BackendError
from cookbook.kinds import BackendConfig, DatasetConfig
from cookbook.rendering import load_tokenizer
from cookbook.runs import Run, read_rows
from cookbook.schedule import Stopped
from cookbook.sl import Conversations, SLConfig
from cookbook_plugin_local.backend import TorchBackend


@chz.chz
class Fake(BackendConfig):
    """A client given from outside, with the tiny model's tokenizer."""

    client: Any = None
    folder: Path = Path()

    def connect(self, run_dir):
        return self.client

    def tokenizer(self, model):
        return load_tokenizer(self.folder)


@chz.chz
class Talks(DatasetConfig):
    train: Any = ()
    test: Any = ()

    def rows(self, split):
        return self.train if split == "train" else self.test


def talk(reply, question="?"):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


TRAIN = [talk(reply) for reply in ("a", "bb", "ccc", "dddd", "eeeee")]
TEST = [talk("é€"), talk("ab"), talk("x"), talk("beyond eval_examples")]


@pytest.fixture
def fake_sl(fake_client, tokenizer):
    """A client by which a trained letter costs 1/4 nat, a stop 1 nat, each times (version + 1), and a token
    that isn't trained 100 nats."""

    class Client(fake_client):
        def __init__(self, before=None):
            super().__init__(before)
            self.data, self.adams = [], []

        def forward_backward(self, data, loss_fn, loss_fn_config=None):
            assert loss_fn == "cross_entropy" and loss_fn_config is None
            self.calls.append(f"forward_backward {len(data)}")
            self.data.append(data)
            return self._pass("forward_backward", data)

        def forward(self, data, loss_fn, loss_fn_config=None):
            self.calls.append(f"forward {len(data)}")
            return self._pass("forward", data)

        def optim_step(self, params):
            self.adams.append(params)
            return super().optim_step(params)

        def _pass(self, name, data):
            outputs = [{"logprobs": tinker.TensorData.from_numpy(self._logprobs(d))} for d in data]
            return self._answer(
                name, tinker.ForwardBackwardOutput("x", outputs, {"loss:sum": 1.0}), self.version
            )

        def _logprobs(self, datum):
            targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
            trained = datum.loss_fn_inputs["weights"].to_numpy() > 0
            cost = np.where(targets == tokenizer.control("<|im_end|>"), 1.0, 0.25) * (self.version + 1)
            return -np.where(trained, cost, 100.0).astype(np.float32)

    return Client


def config(tiny_model, client=None, **values):
    defaults = {
        "data": Talks(train=TRAIN, test=TEST),
        "model": "tiny",
        "renderer": "core/chatml",
        "backend": Fake(client=client, folder=tiny_model),
        "batch_size": 2,
        "eval_every": 0,
        "eval_examples": 3,
        "save_every": 0,
    }
    return SLConfig(**(defaults | values))


def run(cfg, folder, this=None):
    """Runs, and fails when any task is left, or a coroutine that nobody awaited."""
    this = this or Run(folder, {})

    async def main():
        try:
            await cfg.run(this)
        finally:
            assert asyncio.all_tasks() == {asyncio.current_task()}

    try:
        asyncio.run(main())
    finally:
        this.end("ended")
        gc.collect()
    return rows(folder)


def rows(folder, name="metrics.jsonl"):
    """The rows, times apart."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_rows(folder, name)]


def evaluations(folder):
    return rows(folder, "evaluations.jsonl")


def test_a_batch_built_alone_is_that_of_a_run(tiny_model, tmp_path, fake_sl, chatml):
    client = fake_sl()
    run(config(tiny_model, client, epochs=2, reduction="token_sum"), tmp_path / "r")
    for step in (4, 1, 3):
        examples = Conversations(config(tiny_model, epochs=2), TRAIN, chatml).batch(step)
        assert [d.model_input.to_ints() for d in client.data[step]] == [
            example.tokens_T[:-1].tolist() for example in examples
        ]


def test_steps_go_on_beyond_the_epochs_and_cut_no_batch_short(tiny_model, tmp_path, fake_sl):
    found = run(config(tiny_model, client := fake_sl(), steps=4), tmp_path / "r")
    assert [len(data) for data in client.data] == [2, 2, 2, 2]
    assert [row["epoch"] for row in found] == pytest.approx([0.4, 0.8, 1.2, 1.6])


def wire(client, step=0):
    """The weights of each datum, without the zeros."""
    weights_D = [d.loss_fn_inputs["weights"].to_numpy() for d in client.data[step]]
    return sorted([w[w > 0].tolist() for w in weights_D], key=len)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("example_mean", [[1 / 4] * 2, [1 / 8] * 4]),
        ("token_mean", [[1 / 6] * 2, [1 / 6] * 4]),
        ("token_sum", [[1.0] * 2, [1.0] * 4]),
    ],
)
def test_weights_on_the_wire_divide_as_the_reduction_says(tiny_model, tmp_path, fake_sl, reduction, expected):
    client = fake_sl()
    found = run(
        config(tiny_model, client, data=Talks(train=[talk("a"), talk("abc")]), reduction=reduction),
        tmp_path / "r",
    )
    for weights, wanted in zip(wire(client), expected, strict=True):  # the stop is trained too
        assert weights == pytest.approx(wanted)
    assert found[0]["nll"] == pytest.approx((4 * 0.25 + 2 * 1.0) / 6)  # a token's, whatever the reduction
    assert found[0]["tokens/trained"] == 6


def test_max_length_cuts_on_the_right_before_the_shift(tiny_model, tmp_path, fake_sl, chatml):
    row = talk("abcdef")
    whole = chatml.build_supervised_example(row)
    n = whole.weights.index(1.0) + 2  # two letters are left
    client = fake_sl()
    run(config(tiny_model, client, data=Talks(train=[row]), max_length=n), tmp_path / "r")
    (datum,) = client.data[0]
    assert datum.model_input.to_ints() == whole.token_ids[: n - 1]
    assert datum.loss_fn_inputs["target_tokens"].to_numpy().tolist() == whole.token_ids[1:n]
    assert wire(client) == [[0.5, 0.5]]  # the mean is over what is left


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("example_mean", [[1 / 6] * 2, [1 / 12] * 4]), ("token_mean", [[1 / 6] * 2, [1 / 6] * 4])],
)
def test_an_example_without_trained_tokens_gives_no_datum_and_counts(
    tiny_model, tmp_path, fake_sl, chatml, reduction, expected
):
    data = Talks(train=[talk("a"), talk("abc"), talk("x", "long " * 9)])
    n = len(chatml.build_supervised_example(talk("abc")).token_ids)
    client = fake_sl()
    values = {"data": data, "batch_size": 3, "max_length": n, "reduction": reduction}
    found = run(config(tiny_model, client, **values), tmp_path / "r")
    assert client.calls[0] == "forward_backward 2" and found[0]["examples/cut_off"] == pytest.approx(1 / 3)
    for weights, wanted in zip(wire(client), expected, strict=True):
        assert weights == pytest.approx(wanted)


def test_a_batch_that_trains_nothing_takes_no_optimizer_step_and_still_counts(tiny_model, tmp_path, fake_sl):
    client = fake_sl()
    found = run(config(tiny_model, client, max_length=3), tmp_path / "r")
    assert [row["examples/cut_off"] for row in found] == [1, 1, 1] and "nll" not in found[0]
    assert client.calls == ["save_state 000003"]


def test_held_out_loss_is_a_token_mean_and_bits_are_a_byte_of_utf8(tiny_model, tmp_path, fake_sl, tokenizer):
    letters = sum(len(tokenizer.encode(text)) for text in ("é€", "ab", "x"))
    nats = 0.25 * letters + 3 * 1.0
    values = {"eval_every": 3, "evals": (Talks(test=[talk("ab")]), Talks(train=TRAIN))}
    run(config(tiny_model, fake_sl(), **values), tmp_path / "r")
    before, after = evaluations(tmp_path / "r")
    assert before["eval/nll"] == pytest.approx(nats / (letters + 3))
    assert before["eval/bits_per_byte"] == pytest.approx(nats / math.log(2) / (5 + 2 + 1))
    assert before["eval.0/nll"] == pytest.approx((2 * 0.25 + 1) / 3)
    assert before["eval/n"] == 3 and not any(name.startswith("eval.1") for name in before)
    assert after == {"version": 3} | {k: v for k, v in after.items() if k != "version"}
    assert after["eval/nll"] == pytest.approx(4 * before["eval/nll"])


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_what_follows_a_step_sees_exactly_that_steps_weights(tiny_model, tmp_path, fake_sl, ahead):
    client = fake_sl()
    run(config(tiny_model, client, eval_every=1, save_every=1, ahead=ahead), tmp_path / "r")
    kinds = [call.split()[0] for call in client.calls]
    held_out = ["forward", "forward"]  # three conversations, two a pass
    assert kinds == held_out + ["forward_backward", "optim_step", "save_state", *held_out] * 3
    assert client.closed
    first, *others = [row["eval/nll"] for row in evaluations(tmp_path / "r")]
    assert others == pytest.approx([2 * first, 3 * first, 4 * first])
    saved = rows(tmp_path / "r", "checkpoints.jsonl")
    assert [(row["step"], row["optimizer_steps"], row["path"][-6:]) for row in saved] == [
        (1, 1, "000001"),
        (2, 2, "000002"),
        (3, 3, "000003"),
    ]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_steps_than_ahead_are_submitted_before_one_is_read(tiny_model, tmp_path, fake_sl, ahead):
    async def main():
        release = asyncio.Event()

        async def before(name, version, *facts):
            if name == "forward_backward":
                await release.wait()

        client = fake_sl(before)
        cfg = config(tiny_model, client, steps=8, ahead=ahead)
        task = asyncio.create_task(cfg.run(Run(tmp_path / "r", {})))
        for _ in range(100):
            await asyncio.sleep(0)
        assert client.calls.count("optim_step") == ahead + 1 and rows(tmp_path / "r") == []
        release.set()
        await task
        assert client.calls.count("optim_step") == 8

    asyncio.run(main())


def fails(which, at):
    """One call of a step fails, and all but updates wait for ever."""

    async def before(name, version, *facts):
        seen = (facts or (version,))[0]
        if name == which and seen >= at:
            raise OSError(f"{name} failed")
        if name in ("save_state", "forward") and seen > 0:
            await asyncio.Event().wait()

    return before


@pytest.mark.parametrize("which", ["forward_backward", "optim_step", "save_state", "forward"])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_task_survives_a_call_that_fails_while_others_wait(tiny_model, tmp_path, fake_sl, which, ahead):
    client = fake_sl(fails(which, 1 if which in ("optim_step", "save_state", "forward") else 0))
    values = {"eval_every": 1, "save_every": int(which != "forward"), "ahead": ahead, "steps": 8}
    with pytest.raises(OSError, match=f"{which} failed"):
        run(config(tiny_model, client, **values), tmp_path / "r")
    assert client.closed


@pytest.mark.parametrize("which", ["forward_backward", "optim_step", "save_state", "forward"])
def test_no_task_survives_a_call_that_can_not_be_submitted(tiny_model, tmp_path, fake_sl, which):
    client = fake_sl()
    submit = getattr(client, which)

    def refuse(*args, **kwargs):
        if client.version:
            raise OSError(f"{which} refused")
        return submit(*args, **kwargs)

    setattr(client, which, refuse)
    values = {"eval_every": 1, "save_every": 1, "ahead": 2, "steps": 8}
    if which == "optim_step":
        client.version = 1
    with pytest.raises(OSError, match=f"{which} refused"):
        run(config(tiny_model, client, **values), tmp_path / "r")


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(tiny_model, tmp_path, fake_sl, ahead):
    client = fake_sl()
    client._logprobs = lambda datum: np.full(datum.model_input.length, np.nan, np.float32)
    with pytest.raises(BackendError, match="step 0: nll not finite"):
        run(config(tiny_model, client, save_every=1, ahead=ahead), tmp_path / "r")
    assert rows(tmp_path / "r") == rows(tmp_path / "r", "checkpoints.jsonl") == []


def test_an_evaluation_that_never_began_leaves_nothing_unawaited(tiny_model, tmp_path, fake_sl):
    class Full(Run):
        def log(self, step, row):
            raise OSError("no space left")

    # The update of step 0 is over while its predecessor is read, so that reading it waits for nothing.
    values = {"eval_every": 1, "ahead": 1, "steps": 8}
    with pytest.raises(OSError, match="no space left"):
        run(config(tiny_model, fake_sl(), **values), tmp_path / "r", Full(tmp_path / "r", {}))


def stopping(this, at):
    async def before(name, version, *facts):
        if name == "forward_backward" and facts[0] == at:
            this.stop.set()

    return before


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("save_every", [0, 1])
def test_a_stopped_run_keeps_whole_steps_and_goes_on_as_if_it_never_was(
    tiny_model, tmp_path, fake_sl, ahead, save_every
):
    values = {"eval_every": 1, "save_every": save_every, "ahead": ahead, "steps": 8}
    straight = run(config(tiny_model, fake_sl(), **values), tmp_path / "straight")
    this = Run(tmp_path / "r", {})
    client = fake_sl(stopping(this, 2))
    with pytest.raises(Stopped):
        run(config(tiny_model, client, **values), tmp_path / "r", this)
    done = client.calls.count("optim_step")
    assert 3 <= done <= 3 + ahead and len(rows(tmp_path / "r")) == done
    saved = rows(tmp_path / "r", "checkpoints.jsonl")[-1]
    assert saved["step"] == saved["optimizer_steps"] == done
    again = Run.reopen(tmp_path / "r")
    assert again.step == done
    assert run(config(tiny_model, client, **values), tmp_path / "r", again) == straight
    assert f"load {saved['path']}" in client.calls and client.calls.count("optim_step") == 8
    assert evaluations(tmp_path / "r") == evaluations(tmp_path / "straight")


def local(tiny_model, **values):
    backend = TorchBackend(dtype="float32", token_budget=256)
    defaults = {"backend": backend, "model": str(tiny_model), "lr": 1e-2, "lora_rank": 4}
    return config(tiny_model, **(defaults | {"epochs": 3, "eval_every": 3} | values))


def test_two_runs_with_one_seed_are_equal_to_the_bit_however_far_ahead(tiny_model, tmp_path):
    first, second, ahead = (
        run(local(tiny_model, ahead=n), tmp_path / name) for n, name in ((0, "a"), (0, "b"), (2, "c"))
    )
    assert first == second == ahead and len(first) == 8
    assert evaluations(tmp_path / "a") == evaluations(tmp_path / "b") == evaluations(tmp_path / "c")
    assert first[-1]["nll"] < first[0]["nll"] and first[0]["train/grad_norm"] > 0
    assert run(local(tiny_model, seed=1), tmp_path / "d") != first


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_run_that_fails_and_goes_on_equals_the_straight_one(tiny_model, tmp_path, ahead):
    class Fails(Run):
        def log(self, step, row):
            if step == 5:
                raise OSError("no space left")
            super().log(step, row)

    cfg = local(tiny_model, ahead=ahead, save_every=2, lr_schedule="linear", warmup_steps=2)
    straight = run(cfg, tmp_path / "straight")
    with pytest.raises(OSError, match="no space left"):
        run(cfg, tmp_path / "r", Fails(tmp_path / "r", {}))
    again = Run.reopen(tmp_path / "r")
    assert again.step == 4
    assert run(cfg, tmp_path / "r", again) == straight
    assert evaluations(tmp_path / "r") == evaluations(tmp_path / "straight")


def test_the_optimizer_is_given_its_options(tiny_model, tmp_path, fake_sl):
    client = fake_sl()
    values = {"lr": 0.3, "lr_schedule": "linear", "weight_decay": 0.25, "grad_clip": 0.5}
    found = run(config(tiny_model, client, **values), tmp_path / "r")
    assert [adam.learning_rate for adam in client.adams] == pytest.approx([0.3, 0.2, 0.1])
    assert [row["lr"] for row in found] == [adam.learning_rate for adam in client.adams]
    assert {(adam.weight_decay, adam.grad_clip_norm) for adam in client.adams} == {(0.25, 0.5)}
