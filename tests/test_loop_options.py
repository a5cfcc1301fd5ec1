"""What the options of the loop send to a backend, and when."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest

from cookbook import Step
from cookbook.errors import ConfigError
from cookbook.rollout import Limits
from cookbook.runs import Run, read_rows

ONE = {"steps": 1, "eval_every": 0, "groups_per_step": 4}


def kinds(client):
    return [call.split()[0] for call in client.calls]


def inputs(data_D, name):
    return [datum.loss_fn_inputs[name].to_numpy() for datum in data_D]


def all_data(client):
    return [datum for data_D in client.data for datum in data_D]


def same_data(one_D, other_D):
    return len(one_D) == len(other_D) and all(
        a.model_input == b.model_input
        and a.loss_fn_inputs.keys() == b.loss_fn_inputs.keys()
        and all(np.array_equal(*(inputs([d], k)[0] for d in (a, b))) for k in a.loss_fn_inputs)
        for a, b in zip(one_D, other_D, strict=True)
    )


def varied(reply):
    """No two letters have one reward, so that nearly every group teaches something."""
    return Step(float(ord(reply["content"][0]) % 8), True)


def test_minibatches_are_submitted_in_index_order_each_as_soon_as_it_is_played(
    config, train, letters, tmp_path, fake_client
):
    whole = fake_client()
    values = ONE | {"env": letters(answer=varied)}
    plain = train(config(whole, **values), tmp_path / "whole")

    async def before(name, version, *facts):
        if name == "sample" and facts[0] in last:
            await first.wait()  # the second half is played only after the first was submitted

    class Client(fake_client):
        def forward_backward(self, data, *args):
            first.set()
            return super().forward_backward(data, *args)

    prompts = [prompt for _, prompt, _ in whole.samples]  # the four of a group are the same
    last = {prompt for prompt in prompts if prompts.index(prompt) >= 8}
    first = asyncio.Event()
    client = Client(before)
    halves = train(config(client, minibatches=2, **values), tmp_path / "halves")
    assert kinds(client) == ["publish", *["forward_backward"] * 2, "optim_step", "publish", "save_state"]
    assert kinds(whole) == ["publish", "forward_backward", "optim_step", "publish", "save_state"]
    assert same_data(all_data(client), all_data(whole))
    assert halves[0].pop("train/loss") == 2 * plain[0].pop("train/loss")  # the fake says 1.0 a call
    assert halves == plain


def test_minibatches_come_in_index_order_however_fast_each_is(config, train, letters, tmp_path, fake_client):
    whole = fake_client()
    values = ONE | {"env": letters(answer=varied)}
    train(config(whole, **values), tmp_path / "whole")
    prompts = [prompt for _, prompt, _ in whole.samples]
    early = {prompt for prompt in prompts if prompts.index(prompt) < 4}
    sampled, others = [], asyncio.Event()

    async def before(name, version, *facts):
        if name == "sample" and facts[0] in early:
            await others.wait()  # the first group is the last to be played
        elif name == "sample":
            sampled.append(facts[0])
            if len(sampled) == 12:
                others.set()

    client = fake_client(before)
    train(config(client, minibatches=4, **values), tmp_path / "parts")
    assert same_data(all_data(client), all_data(whole))
    assert [len(data_D) for data_D in client.data] != [len(all_data(whole))]


def test_substeps_take_an_optimizer_step_each_on_a_part_of_the_groups(
    config, train, letters, tmp_path, fake_client
):
    whole, client = fake_client(), fake_client()
    values = ONE | {"env": letters(answer=varied), "loss": "ppo", "advantage": "batch_std"}
    train(config(whole, **values), tmp_path / "whole")
    (row,) = train(config(client, substeps=2, **values), tmp_path / "parts")
    pair = ["forward_backward", "optim_step"]
    assert kinds(client) == ["publish", *pair, *pair, "publish", "save_state"]
    assert same_data(all_data(client), all_data(whole))  # advantages once a batch, over all its groups
    assert all(0 < len(data_D) < len(all_data(whole)) for data_D in client.data)
    assert row["train/loss"] == 2.0
    assert {"age_0/train/kl_k1", "age_1/train/kl_k1", "age_1/policy/ess"} <= row.keys()
    (saved,) = read_rows(tmp_path / "parts", "checkpoints.jsonl")
    assert saved["optimizer_steps"] == 2


def test_substeps_clip_by_default_and_both_thresholds_are_sent(config, train, tmp_path, fake_client):
    client = fake_client()
    train(config(client, substeps=2, **ONE), tmp_path / "r")
    assert set(client.losses[0][1]) == {"clip_low_threshold", "clip_high_threshold"}
    assert {loss for loss, _ in client.losses} == {"ppo"}


def test_a_group_that_was_dropped_is_counted_and_the_others_train(
    config, train, letters, tmp_path, fake_client, caplog
):
    calls = []

    def fails_once(reply):
        calls.append(reply)
        if len(calls) == 1:
            raise ZeroDivisionError("of the env")
        return varied(reply)

    client = fake_client()
    env = letters(answer=fails_once)
    (row,) = train(config(client, env=env, episode_errors="drop_group", **ONE), tmp_path / "r")
    assert (row["groups/failed"], row["n"]) == (0.25, 12)
    assert row["groups/no_verdict"] == 0
    assert 0 < len(all_data(client)) <= 12
    assert [r.getMessage().rsplit("; ", 1)[1] for r in caplog.records] == ["its group is dropped"]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_batch_whose_groups_were_all_dropped_still_counts(config, train, letters, tmp_path, fake_client):
    def fails(reply):
        raise ZeroDivisionError("of the env")

    client = fake_client()
    cfg = config(client, env=letters(answer=fails), episode_errors="drop_group", **ONE)
    (row,) = train(cfg, tmp_path / "r")
    assert (row["groups/failed"], row["n"], row["step"]) == (1.0, 0, 0)
    assert client.calls == ["publish 0", "save_state 000001"]


def test_resampling_trains_the_first_groups_that_teach_anything(
    config, train, letters, tmp_path, fake_client
):
    """The same eight groups, once all sent and once the first two that teach."""
    client, everything = fake_client(), fake_client()
    values = {"steps": 1, "eval_every": 0, "env": letters(n=20), "group_size": 2}
    (played,) = train(config(everything, groups_per_step=8, **values), tmp_path / "all")
    resampled = config(client, groups_per_step=2, oversample=4.0, constant_groups="resample", **values)
    (row,) = train(resampled, tmp_path / "some")
    assert 0 < row["groups/constant"] < 1 and row["groups/constant"] == played["groups/constant"]
    assert (row["n"], row["reward"], row["tokens/sampled"]) == (
        played["n"],
        played["reward"],
        played["tokens/sampled"],
    )
    assert row["n"] == 16
    assert len(all_data(everything)) > 4  # groups of two episodes, both of which teach
    assert same_data(all_data(client), all_data(everything)[:4])


def test_constant_groups_are_sent_where_they_shall_be_kept(config, train, letters, tmp_path, fake_client):
    client = fake_client()
    same = letters(answer=lambda reply: Step(1.0, True))
    train(config(client, env=same, constant_groups="keep", **ONE), tmp_path / "r")
    assert len(all_data(client)) == 16
    assert not any(a.any() for a in inputs(all_data(client), "advantages"))


def test_a_kl_penalty_asks_the_reference_that_is_in_the_record(config, train, letters, tmp_path, fake_client):
    client = fake_client()
    same = letters(answer=lambda reply: Step(1.0, True))
    run = Run(tmp_path / "r", {})
    (row,) = train(config(client, env=same, kl_coef=0.5, kl_centre=False, **ONE), run)
    assert client.opened == [{"model_path": None, "base_model": "tiny"}]
    assert run.record["kl_reference"] == "tiny"
    assert len(client.scored) == 16 and {source for source, _ in client.scored} == {"tiny"}
    # The fake samples at -1 and -0.5 nats and its reference says -2 of every token.
    assert row["kl/reference"] == pytest.approx(1.25)
    assert len(all_data(client)) == 16  # all rewards are equal, and yet each datum has a gradient
    for advantages_T in inputs(all_data(client), "advantages"):
        assert advantages_T[advantages_T != 0] == pytest.approx([-0.5, -0.75])


def test_a_kl_reference_may_be_saved_weights(config, train, tmp_path, fake_client):
    client = fake_client()
    path = "tinker://x/sampler_weights/abc-7"
    run = Run(tmp_path / "r", {})
    train(config(client, kl_coef=0.1, kl_reference=path, **ONE), run)
    assert client.opened == [{"model_path": path, "base_model": None}]
    assert run.record["kl_reference"] == path
    assert {source for source, _ in client.scored} == {path}


def test_dro_asks_the_sampler_for_what_it_thinks_of_the_prompt(config, train, tmp_path, fake_client):
    client = fake_client()
    values = {"steps": 2, "eval_every": 0, "groups_per_step": 2, "max_lag": 1}
    train(config(client, loss="dro", dro_beta=0.25, **values), tmp_path / "r")
    assert {loss for loss, _ in client.losses} == {"dro"}
    assert client.losses[0][1] == {"beta": 0.25}
    paths = {source for source, _ in client.scored}
    assert paths == {"tinker://fake/sampler_weights/000000-0"}  # the weights that both batches are of
    for logprobs_T in inputs(all_data(client), "logprobs"):
        assert logprobs_T.tolist() == [-2.0] * (len(logprobs_T) - 2) + [-1.0, -0.5]


@pytest.mark.parametrize("substeps", [1, 2])
@pytest.mark.parametrize("kind", ["token_truncate", "token_mask", "sequence_mask"])
def test_an_off_policy_correction_asks_the_trainer_before_the_update(
    config, train, letters, tmp_path, fake_client, kind, substeps
):
    plain, client = fake_client(), fake_client()
    values = ONE | {"env": letters(answer=varied), "loss": "ppo", "substeps": substeps}
    train(config(plain, **values), tmp_path / "plain")
    train(config(client, off_policy=kind, **values), tmp_path / "corrected")
    assert kinds(client)[:3] == ["publish", "forward", "forward_backward"]
    assert [call for call in kinds(client) if call != "forward"] == kinds(plain)
    assert client.calls[1] == f"forward {len(all_data(plain))}"
    assert same_data(all_data(client), all_data(plain))  # the fake's trainer is its sampler: weights of 1


def test_a_correction_of_a_batch_that_trains_nothing_asks_nobody(
    config, train, letters, tmp_path, fake_client
):
    client = fake_client()
    same = letters(answer=lambda reply: Step(1.0, True))
    train(config(client, env=same, off_policy="token_mask", **ONE), tmp_path / "r")
    assert kinds(client) == ["publish", "save_state"]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"minibatches": 2, "substeps": 2}, "minibatches=2 substeps=2: one of them must be 1"),
        ({"minibatches": 3}, "groups_per_step=4 isn't a multiple of minibatches=3"),
        ({"substeps": 3}, "groups_per_step=4 isn't a multiple of substeps=3"),
        ({"minibatches": 2, "advantage": "batch_std"}, "advantage=batch_std needs the whole batch"),
        ({"minibatches": 2, "loss_norm": "token_mean"}, "loss_norm=token_mean needs the whole batch"),
        ({"minibatches": 2, "constant_groups": "resample"}, "constant_groups=resample needs the whole batch"),
        ({"minibatches": 2, "kl_coef": 0.1}, "kl_centre=true needs the whole batch"),
        ({"off_policy": "token_mask", "loss": "gspo"}, "corrects tokens; loss=gspo can't take it"),
        ({"off_policy": "token_mask", "loss": "dro"}, "corrects tokens; loss=dro can't take it"),
        ({"loss": "dro", "clip_low": 0.8}, "clip_low given, but loss=dro doesn't clip"),
        ({"loss": "ppo", "clip_high": 0.5}, "must be ratios around 1"),
        ({"kl_discount": 1.5}, "kl_discount=1.5: must be from 0 to 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused_in_one_line(config, values, line):
    with pytest.raises(ConfigError) as e:
        config(None, groups_per_step=4, **values)
    assert line in str(e.value)


def test_an_episode_never_outgrows_the_context_of_the_model(
    config, train, tmp_path, fake_client, monkeypatch
):
    client = fake_client()
    cfg = config(client, limits=Limits(max_episode_tokens=10**6), **ONE)
    free = fake_client()
    train(config(free, **ONE), tmp_path / "free")
    n = len(free.samples[0][1])
    monkeypatch.setattr(type(cfg.backend), "context", lambda self, model: n + 1)
    (row,) = train(cfg, tmp_path / "r")
    assert set(client.room) == {1} and row["stop/max_tokens"] == 1.0
