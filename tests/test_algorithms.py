"""Each row of docs/13-algorithms.md does what it says, each loss learns, and a lag costs no reward."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import torch

from cookbook import EnvConfig, Step
from cookbook.configs import from_argv, settle
from cookbook.rl import RLConfig
from cookbook.runs import Run, read_rows
from cookbook.streams import stream
from cookbook.testing import Tabular, tabular
from cookbook.testing.tabular import Answer, Table, TableClient, TableSampler
from cookbook_plugin_local.backend import TorchBackend
from cookbook_plugin_local.losses import LOSSES

PAGE = (Path(__file__).parents[1] / "docs" / "13-algorithms.md").read_text()
ALGORITHMS = {
    name: (options.split(), wire.split())
    for name, options, wire in re.findall(r"^\| ([^|]+?) \| `([^`]+=[^`]+)` \| `([^`]+)` \|$", PAGE, re.M)
}
POLICY_LOSSES = [name for name in LOSSES if name != "cross_entropy"]


class Sampler(TableSampler):
    """Before each sample `before` is awaited."""

    before = None

    async def sample(self, prompt, num_samples, sampling_params):
        if self.before is not None:
            await self.before("sample", sampling_params.seed)
        return await super().sample(prompt, num_samples, sampling_params)


class Client(TableClient):
    """Keeps what went over the wire: (loss, loss_fn_config, number of datums) of each forward_backward.
    before: awaited before a sample, with "sample" and its seed, and before an optimizer step ends, with
    "optim_step" and its number."""

    def __init__(self, table, before=None):
        super().__init__(table)
        self.before, self.wire = before, []

    def sampler(self, table):
        sampler = Sampler(table)
        sampler.before = self.before
        return sampler

    def forward_backward(self, data, loss_fn, loss_fn_config=None):
        self.wire.append((loss_fn, loss_fn_config, len(data)))
        return super().forward_backward(data, loss_fn, loss_fn_config)

    def optim_step(self, adam):
        step, answer = self.steps, super().optim_step(adam)
        return Answer(answer.value, self.before and (lambda: self.before("optim_step", step)))


@chz.chz
class Given(Tabular):
    """A client given from outside."""

    client: Any = None

    def connect(self, run_dir):
        return self.client


class Word:
    """One turn; a half for each letter of "ab" in its place."""

    def table(self):
        return [self]

    async def start(self):
        return [{"role": "user", "content": "a word?"}]

    async def step(self, reply):
        right = [x == y for x, y in zip(reply["content"], "ab", strict=False)]
        return Step(sum(right) / 2, True, correct=sum(right) == 2)


class Lower(Word):
    """The share of lower-case letters among four: a random byte is one by chance in ten."""

    async def step(self, reply):
        return Step(sum("a" <= c <= "z" for c in reply["content"][:4]) / 4, True)


@chz.chz
class Same(EnvConfig):
    """One task over and over."""

    task: type = Word

    def tasks(self, split):
        return [self.task() for _ in range(8)]


SMALL = {
    "model": "tiny",
    "renderer": "core/chatml",
    "eval_every": 0,
    "save_every": 0,
    "groups_per_step": 4,
    "group_size": 8,
    "max_tokens": 3,
    "lr": 0.1,
    "log_episodes": 0,
}


def play(folder, *layers):
    """Runs a config of these layers and gives its rows."""
    cfg = settle(RLConfig, list(layers)).config
    asyncio.run(cfg.run(Run(folder, {})))
    return read_rows(folder)


@pytest.fixture
def client(tokenizer):
    return new_client(tokenizer)


def new_client(tokenizer, before=None):
    """A policy over a, b, c, d and the end of a reply, all equally likely."""
    return Client(Table.uniform([*tokenizer.encode("abcd"), tokenizer.control("<|im_end|>")]), before)


def values(client, **more):
    backend = Given(client=client)
    return "test", SMALL | {"backend": backend, "env": Same()} | more


def promised(wire):
    """What a row of the page says of the wire, as the wire has it."""
    name, *numbers = wire
    keys = {0: [], 1: ["beta"], 2: ["clip_low_threshold", "clip_high_threshold"]}[len(numbers)]
    return name, dict(zip(keys, map(float, numbers), strict=True)) or None


# The page


def test_the_page_has_the_algorithms():
    assert {"REINFORCE", "GRPO", "Dr. GRPO", "DAPO", "RLOO", "GSPO", "CISPO", "DRO"} <= set(ALGORITHMS)
    assert len(ALGORITHMS) == PAGE.split("## What differs")[0].count("\n| ") - 1  # the head
    assert {promised(wire)[0] for _, wire in ALGORITHMS.values()} == set(POLICY_LOSSES)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_of_the_page_sends_what_its_row_says_and_learns(name, tiny_model, tmp_path, client):
    options, wire = ALGORITHMS[name]
    rows = play(tmp_path / "r", values(client, steps=40), from_argv(options))
    loss, config = promised(wire)
    record = json.loads((tmp_path / "r" / "record.json").read_text())
    assert (record["loss"], record["loss_config"]) == (loss, pytest.approx(config) if config else None)
    assert {(n, tuple((c or {}).items())) for n, c, _ in client.wire} == {
        (record["loss"], tuple((record["loss_config"] or {}).items()))
    }
    assert rows[0]["reward"] < 0.35 and np.mean([row["reward"] for row in rows[-5:]]) > 0.7


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_of_the_page_trains_the_tiny_llama(name, tiny_model, tmp_path):
    options, wire = ALGORITHMS[name]
    backend = TorchBackend(dtype="float32", token_budget=512)
    more = {"model": str(tiny_model), "backend": backend, "env": Same(task=Lower), "lr": 1e-2, "steps": 2}
    rows = play(tmp_path / "r", values(None, **more), from_argv(options))
    record = json.loads((tmp_path / "r" / "record.json").read_text())
    assert record["loss"] == promised(wire)[0] and len(rows) == 2
    # None of its replies ends before it is cut off, so that masking those leaves nothing to train on.
    assert any(row.get("train/grad_norm", 0) > 0 for row in rows) == ("truncated=mask" not in options)


def test_the_thresholds_that_the_page_gives_are_those_where_none_are_given(tiny_model, client):
    found = re.search(
        r"Not given they are\s+ppo (\S+) and (\S+), cispo (\S+) and (\S+), gspo (\S+) and (\S+)\.\n", PAGE
    )
    for i, loss in enumerate(("ppo", "cispo", "gspo")):
        cfg = settle(RLConfig, [values(client, loss=loss)]).config
        assert cfg.clip() == pytest.approx([float(x) for x in found.groups()[2 * i : 2 * i + 2]])


def test_every_column_that_the_page_names_is_logged(tiny_model, tmp_path, client):
    """And those of a run with substeps, a KL penalty, checkpoints and evaluations."""
    ways = {"substeps": 2, "kl_coef": 0.1, "loss": "ppo", "save_every": 1, "eval_every": 1, "steps": 3}
    rows = play(tmp_path / "r", values(client, **ways))
    table = PAGE.split("## What the columns mean")[1].split("\n## ")[0]
    named = {x for cell in re.findall(r"^\| (`.*?) \|", table, re.M) for x in re.findall("`(.*?)`", cell)}
    assert len(named) > 15 and named - set().union(*rows) == {"age_k/..."}
    assert {f"age_{k}/{name}" for k in (0, 1) for name in named if name.startswith("policy/r")} <= set(
        rows[0]
    )
    times = [value for name, value in rows[-1].items() if name.startswith("time/wait_for_")]
    assert sum(times) == pytest.approx(rows[-1]["time/step_s"])


def test_every_choice_of_an_option_stands_on_the_page():
    fields = chz.chz_fields(RLConfig)
    for name in ("loss", "loss_norm", "constant_groups", "truncated", "off_policy", "episode_errors"):
        for choice in fields[name].final_type.__args__:
            assert f"`{choice}`" in PAGE or f"{name}={choice}" in PAGE, f"{name}={choice}"


# Gradients


def random_datum(table, seed):
    """Ten tokens, three of them observations, sampled by weights that are not far from the table's."""
    random = np.random.default_rng(seed)
    inputs_T = random.choice([*table.choices, 99], 10)
    targets_T = random.choice([*table.choices, 99], 10)
    action_T = np.isin(targets_T, table.choices)
    mu_T = table.logprobs(inputs_T, targets_T) + action_T * random.normal(0, 0.3, 10)
    x = {"logprobs": mu_T, "advantages": action_T * random.normal(0, 1, 10)}
    return inputs_T, targets_T, x | {"sequence_ratio_mask": action_T.astype(float)}


def random_table(seed):
    return Table((5, 6, 7, 2), np.random.default_rng(seed).normal(0, 1, (tabular.ROWS, 4)))


@pytest.mark.parametrize("loss", POLICY_LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_the_tables_gradient_is_that_of_finite_differences(loss, seed):
    table, config = random_table(seed), LOSSES[loss].settings
    inputs_T, targets_T, x = random_datum(table, seed)
    held_T = table.logprobs(inputs_T, targets_T)
    found = table.gradient(inputs_T, targets_T, tabular.slopes(loss, held_T, x, config))

    def value(row, k, by):
        moved = table.copy()
        moved.logits[row, k] += by
        logp_T = moved.logprobs(inputs_T, targets_T)
        return tabular.losses(loss, logp_T, held_T, x, config).sum()

    for row in set(inputs_T.tolist()):
        slopes = [(value(row, k, 1e-5) - value(row, k, -1e-5)) / 2e-5 for k in range(4)]
        assert slopes == pytest.approx(found[row].tolist(), abs=1e-7)
        found[row] = 0
    assert not found.any()


@pytest.mark.parametrize("loss", POLICY_LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_the_tables_losses_and_slopes_are_those_of_the_local_engine(loss, seed):
    table = random_table(seed)
    inputs_T, targets_T, x = random_datum(table, seed)
    held_T = table.logprobs(inputs_T, targets_T)
    logp_T = torch.tensor(held_T, requires_grad=True)
    tensors = {name: torch.tensor(v) for name, v in x.items()} | {"datum": torch.zeros(10, dtype=torch.int64)}
    settings = LOSSES[loss].settings
    tensors |= {name: torch.full((10,), settings[name]) for name in LOSSES[loss].optional}
    losses_T = LOSSES[loss].formula(logp_T, tensors, settings)
    losses_T.sum().backward()
    ours = tabular.losses(loss, held_T, held_T, x, settings)
    assert losses_T.tolist() == pytest.approx(ours.tolist())
    slopes_T = tabular.slopes(loss, held_T, x, settings)
    assert logp_T.grad.tolist() == pytest.approx(slopes_T.tolist())


# Learning


@pytest.mark.parametrize("way", [{"max_lag": 0}, {"substeps": 2}])
@pytest.mark.parametrize("loss", POLICY_LOSSES)
def test_a_loss_learns_on_a_table(loss, way, tiny_model, tmp_path, client):
    rows = play(tmp_path / "r", values(client, loss=loss, steps=40, **way))
    rewards = [row["reward"] for row in rows]
    assert rewards[0] < 0.35 and np.mean(rewards[-5:]) > 0.8


@pytest.mark.parametrize("way", [{"max_lag": 0}, {"substeps": 2}])
@pytest.mark.parametrize("loss", POLICY_LOSSES)
def test_a_loss_learns_on_the_tiny_llama(loss, way, tiny_model, tmp_path):
    backend = TorchBackend(dtype="float32", token_budget=512)
    more = {"model": str(tiny_model), "backend": backend, "env": Same(task=Lower), "lr": 1e-2}
    more |= {"loss": loss, "steps": 20, "max_tokens": 4, "lora_rank": 8, **way}
    rewards = [row["reward"] for row in play(tmp_path / "r", values(None, **more))]
    assert np.mean(rewards[:2]) < 0.3 and np.mean(rewards[-3:]) > 0.6


# Lag


def learnt(tiny_model, tokenizer, folder, max_lag, seed):
    """Mean reward of the last 20 of 100 steps."""
    more = {"max_lag": max_lag, "seed": seed, "loss": "ppo", "steps": 100, "group_size": 4}
    rows = play(folder, values(new_client(tokenizer), **more))
    return float(np.mean([row["reward"] for row in rows[-20:]]))


def test_max_lag_0_1_and_3_reach_the_same_reward(tiny_model, tokenizer, tmp_path):
    found = {
        lag: np.array([learnt(tiny_model, tokenizer, tmp_path / f"{lag}-{s}", lag, s) for s in range(5)])
        for lag in (0, 1, 3)
    }
    for lag in (1, 3):
        noise = np.sqrt(found[0].var(ddof=1) / 5 + found[lag].var(ddof=1) / 5)
        assert abs(found[lag].mean() - found[0].mean()) < max(3 * noise, 0.01)
    assert min(x.min() for x in found.values()) > 0.95


@pytest.mark.parametrize("max_lag", [0, 1, 3])
def test_while_a_batch_trains_the_next_max_lag_are_sampled_and_none_beyond(
    max_lag, tiny_model, tokenizer, tmp_path
):
    """No sample of batch b + 1 is answered before batch b trains."""
    steps = 8
    batch_of = {
        stream(0, step, group, table, 0, 0): step
        for step in range(steps + 4)
        for group in range(SMALL["groups_per_step"])
        for table in range(SMALL["group_size"])
    }
    begun, seen = set(), {}
    trains = [asyncio.Event() for _ in range(steps)]

    async def before(name, number):
        if name == "sample":
            begun.add(batch_of[number])
            if batch_of[number]:
                await trains[batch_of[number] - 1].wait()
        else:
            for _ in range(50):  # all that may begin does
                await asyncio.sleep(0)
            seen[number] = begun - set(range(number + 1))
            trains[number].set()

    client = new_client(tokenizer, before)
    layer = values(client, steps=steps, max_lag=max_lag, constant_groups="keep", loss="ppo")
    play(tmp_path / "r", layer)
    ahead = {b: set(range(b + 1, min(b + max_lag, steps - 1) + 1)) for b in range(steps)}
    assert seen == ahead
