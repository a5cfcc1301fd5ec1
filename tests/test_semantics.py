"""The rules that a re-implementation gets wrong: from episodes through a config to what is trained on."""

from __future__ import annotations

import asyncio
import tracemalloc
from types import SimpleNamespace
from typing import Any

import chz
import numpy as np
import pytest
import tinker

from cookbook import BackendConfig, EnvConfig, Episode, Step, Turn
from cookbook.backends.base import Sampler, Trainer, logprobs_under
from cookbook.errors import BackendError, ConfigError
from cookbook.evaluate import evaluate
from cookbook.rendering import Rendered
from cookbook.rl import CLIPS, Order, Parts, RLConfig, shape
from cookbook.rollout import Limits, Player
from cookbook.streams import shuffled, stream


class Two:
    """A task whose one seat ends at its first reply."""

    def table(self):
        return [self]

    async def start(self):
        return [{"role": "user", "content": "?"}]

    async def step(self, reply):
        return Step(1.0, True, correct=False)  # a reward, and yet wrong


@chz.chz
class Given(EnvConfig):
    """Any tasks."""

    given: Any = chz.field(default_factory=lambda: [Two()])

    def tasks(self, split):
        return self.given


@chz.chz
class NoBackend(BackendConfig):
    def connect(self, run_dir):
        raise NotImplementedError

    def tokenizer(self, model):
        raise NotImplementedError


class Fixed:
    """Sampling client and trainer whose log-probabilities are those given, whatever the tokens are."""

    def __init__(self, *logprobs):
        self.logprobs, self.asked = list(logprobs), []

    async def compute_logprobs(self, prompt):
        self.asked.append(prompt.to_ints())
        return [None, *self.logprobs[: prompt.length - 1]]

    async def forward(self, data_D):
        self.asked += [d.model_input.to_ints() for d in data_D]
        return [np.array(self.logprobs[: d.model_input.length], dtype=np.float32) for d in data_D]


def config(**values):
    defaults = {"model": "m", "backend": NoBackend(), "env": Given(), "groups_per_step": 2, "group_size": 2}
    return RLConfig(**(defaults | values))


def turn(prompt, tokens, logprobs):
    return Turn(prompt, tokens, logprobs, {"role": "assistant", "content": ""}, True)


def episode(reward, stop="done", turns=None):
    """Tokens 1 | 2 3 by default: an observation, and two sampled of log-probability -1 and -2."""
    turns = [turn([1], [2, 3], [-1.0, -2.0])] if turns is None else turns
    return Episode(turns, [], reward, None, stop, 0)


def groups_of(*rewards_P):
    return [[episode(r) for r in rewards_G] for rewards_G in rewards_P]


def shaped(groups_P, sampler=None, reference=None, trainer=None, **values):
    parts = Parts(trainer, None, reference, None, None)  # type: ignore[arg-type]
    return asyncio.run(shape(config(**values), groups_P, sampler, parts))  # type: ignore[arg-type]


def advantages_of(found, substep=0):
    return [d.loss_fn_inputs["advantages"].to_numpy().tolist() for d in found.data_K[substep]]


# Advantages, and what is dropped


def test_the_same_scalar_stands_on_every_action_token_and_0_on_observations():
    turns = [turn([1], [2, 3], [-1, -2]), turn([1, 2, 3, 4, 5], [6], [-1]), turn([1, 9], [7], [-1])]
    found = shaped([[episode(1.0, turns=turns), episode(0.0, turns=turns)]])
    assert advantages_of(found) == [[0.5, 0.5, 0, 0, 0.5], [0, 0.5], [-0.5, -0.5, 0, 0, -0.5], [0, -0.5]]


def test_groups_that_teach_nothing_are_dropped_kept_or_replaced():
    played = groups_of((1.0, 1.0), (None, 1.0), (1.0, 0.0)) + [[]] + groups_of((0.0, 2.0), (4.0, 0.0))
    half, one, two = [[0.5, 0.5], [-0.5, -0.5]], [[-1, -1], [1, 1]], [[2, 2], [-2, -2]]
    assert advantages_of(shaped(played)) == half + one + two
    assert advantages_of(shaped(played, constant_groups="keep")) == [[0, 0]] * 2 + half + one + two
    resampled = shaped(played, constant_groups="resample")  # the first two that teach, in index order
    assert advantages_of(resampled) == half + one and len(resampled.groups_P) == 6


def test_a_constant_group_trains_where_kl_gives_it_an_advantage():
    found = shaped(groups_of((1.0, 1.0)), reference=Fixed(-3.0, -2.0), kl_coef=0.1, kl_centre=False)
    assert advantages_of(found) == [pytest.approx([-0.2, 0.0])] * 2  # d = -1 + 3 and -2 + 2
    assert found.kl == pytest.approx(1.0)


def test_a_masked_episode_is_in_the_baseline_and_in_no_datum():
    group = [episode(1.0, "max_tokens"), episode(0.0)]
    assert advantages_of(shaped([group], truncated="mask")) == [[-0.5, -0.5]]
    assert len(shaped([group], truncated="keep").data_K[0]) == 2
    kept = shaped([group], sampler=Fixed(-1.0, -1.0), truncated="mask", loss="dro", constant_groups="keep")
    assert advantages_of(kept) == [[-0.5, -0.5]]


# KL


def test_kl_stands_before_the_loss_scale_and_past_observations():
    turns = [turn([1], [2], [-1.0]), turn([1, 2, 3], [4], [-1.0])]
    group = [episode(1.0, turns=turns), episode(0.0, turns=turns)]
    reference = Fixed(-2.0, -50.0, -4.0)  # d: 1, not counted, 3
    values = {"kl_coef": 0.1, "kl_discount": 0.5, "kl_centre": False, "loss_norm": "episode_mean"}
    found = advantages_of(shaped([group], reference=reference, **values))
    scale = 2 * 2 * 2  # groups planned, episodes, tokens
    assert found[0] == pytest.approx([(0.5 - 0.25) / scale, 0, (0.5 - 0.3) / scale])
    assert found[1] == pytest.approx([(-0.5 - 0.25) / scale, 0, (-0.5 - 0.3) / scale])
    assert reference.asked == [[1, 2, 3, 4]] * 2


def test_distillation_is_kl_without_a_baseline_a_discount_or_a_centre_and_drops_nothing():
    values = {"advantage": "none", "kl_coef": 2.0, "kl_centre": False}
    found = shaped(groups_of((0.0, 0.0)), reference=Fixed(-3.0, -1.0), **values)
    assert advantages_of(found) == [[-4.0, 2.0]] * 2  # -2 (log mu - log teacher)


def test_a_part_that_trains_nothing_says_nothing_of_the_kl():
    assert shaped(groups_of((None, 1.0)), reference=Fixed(-3.0, -1.0), kl_coef=1.0).kl is None


def test_reference_logprobs_are_one_a_token_with_0_for_the_first_or_an_error():
    tokens = [np.array([5, 6, 7])]
    found = asyncio.run(logprobs_under(Fixed(-1.0, -2.0), tokens))
    assert found[0].tolist() == [0, -1, -2] and found[0].dtype == np.float64
    with pytest.raises(BackendError, match="2 values for 3 tokens"):
        asyncio.run(logprobs_under(Fixed(-1.0), tokens))


# Loss scale


@pytest.mark.parametrize(
    ("norm", "divisor"),
    [("sum", 1), ("constant", 4 * 3 * 10), ("token_mean", 12), ("episode_mean", 4 * 3 * 2)],
)
def test_denominators_are_planned_or_counted_before_dropping(norm, divisor):
    groups = groups_of(
        (1.0, 0.0, None), (1.0, 1.0, 1.0)
    )  # two datums are left of six, two groups came of four
    found = shaped(groups, loss_norm=norm, groups_per_step=4, group_size=3, max_tokens=10)
    assert advantages_of(found) == [pytest.approx([0.5 / divisor] * 2), pytest.approx([-0.5 / divisor] * 2)]


def test_parts_add_up_to_the_whole_batch():
    batch = groups_of((1.0, 0.0), (3.0, 0.0))
    for norm in ("constant", "episode_mean"):
        one, two = (advantages_of(shaped([g], loss_norm=norm, minibatches=2)) for g in batch)
        assert one + two == advantages_of(shaped(batch, loss_norm=norm))


# Off-policy


def test_corrections_use_the_trainers_own_logprobs_and_come_last():
    trainer = Fixed(-1 + np.log(4), -2.0)
    groups = groups_of((1.0, 0.0))
    found = shaped(groups, trainer=trainer, off_policy="token_mask", off_policy_cap=2.0)
    assert advantages_of(found) == [[0, 0.5], [0, -0.5]]
    trainer = Fixed(-1 + np.log(16), -2.0)  # a geometric mean of 4
    found = shaped(groups, trainer=trainer, off_policy="sequence_mask", off_policy_cap=2.0)
    assert found.data_K == [[]] and trainer.asked == [[1, 2]] * 2  # dropped after it was corrected
    found = shaped(
        groups, trainer=trainer, off_policy="token_truncate", off_policy_cap=2.0, loss_norm="constant"
    )
    assert advantages_of(found)[0] == pytest.approx(np.array([1.0, 0.5]) / (4 * 256))
    logprobs = found.data_K[0][0].loss_fn_inputs["logprobs"].to_numpy()
    assert logprobs == pytest.approx([-1 + np.log(16), -2.0])  # the loss's ratio is to the trainer


def test_dro_has_the_samplers_logprobs_on_observations_and_drops_nothing():
    turns = [turn([1, 8], [2], [-1.0]), turn([1, 8, 2, 3], [4], [-1.0])]
    groups = [[episode(1.0, turns=turns), episode(1.0, turns=turns)]]
    data = shaped(groups, sampler=Fixed(-5.0, -9.0, -6.0, -9.0), loss="dro").data_K[0]
    assert [d.loss_fn_inputs["logprobs"].to_numpy().tolist() for d in data] == [[-5, -1, -6, -1]] * 2


def test_substeps_are_whole_groups_in_order_of_advantages_made_once_for_the_batch():
    batch = groups_of((1.0, 0.0), (3.0, 1.0), (5.0, 5.0), (0.0, 8.0))
    found = shaped(batch, substeps=2, groups_per_step=4, advantage="batch_std")
    whole = shaped(batch, groups_per_step=4, advantage="batch_std")
    assert [len(d) for d in found.data_K] == [4, 2]
    assert advantages_of(found, 0) + advantages_of(found, 1) == advantages_of(whole)


def test_training_samples_at_temperature_1_from_the_raw_distribution():
    assert not any("temperature" in name for name in chz.asdict(config()) if not name.startswith("eval"))
    params = played(Player(Chat(), 4, Limits()))
    assert {(p.temperature, p.top_p, p.top_k) for p in params} == {(1.0, 1.0, -1)}


# What the config refuses, resolves and warns of


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"minibatches": 2, "advantage": "batch_std"}, "advantage=batch_std needs the whole batch"),
        ({"minibatches": 2, "loss_norm": "token_mean"}, "loss_norm=token_mean needs the whole batch"),
        ({"minibatches": 2, "kl_coef": 0.1}, "kl_centre=true needs the whole batch"),
        ({"minibatches": 2, "constant_groups": "resample"}, "constant_groups=resample needs the whole batch"),
        ({"minibatches": 2, "substeps": 2}, "minibatches=2 substeps=2: one of them must be 1"),
        ({"minibatches": 3}, "groups_per_step=2 isn't a multiple of minibatches=3"),
        ({"substeps": 3}, "groups_per_step=2 isn't a multiple of substeps=3"),
        ({"clip_low": 0.8}, "clip_low given, but loss=importance_sampling doesn't clip"),
        ({"clip_high": 1.2, "loss": "dro"}, "clip_high given, but loss=dro doesn't clip"),
        ({"clip_low": 0.2, "clip_high": 0.2, "loss": "ppo"}, "must be ratios around 1"),
        ({"clip_high": float("inf"), "loss": "ppo"}, "must be ratios around 1"),
        ({"off_policy": "token_mask", "loss": "gspo"}, "loss=gspo can't take it"),
        ({"off_policy": "token_truncate", "loss": "dro"}, "loss=dro can't take it"),
        ({"off_policy_cap": 0.5}, "off_policy_cap=0.5: must be 1 or more"),
        ({"kl_discount": 1.5}, "kl_discount=1.5: must be from 0 to 1"),
        ({"kl_coef": float("nan")}, "kl_coef=nan: must be 0 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(values, line):
    with pytest.raises(ConfigError, match=line):
        config(**values)


def test_minibatches_go_with_what_needs_a_group_alone():
    for values in ({"kl_coef": 0.1, "kl_centre": False}, {"loss_norm": "constant"}, {"advantage": "grpo"}):
        assert config(minibatches=2, **values).minibatches == 2


def test_the_loss_clips_by_itself_where_the_run_is_off_policy():
    assert config().loss_fn == "importance_sampling"
    assert config(max_lag=1).loss_fn == config(substeps=2).loss_fn == "ppo"
    assert config(loss="cispo", max_lag=1).loss_fn == "cispo"
    assert config(minibatches=2).loss_fn == "importance_sampling" and config().loss_config() is None
    assert config(loss="dro", dro_beta=0.3).loss_config() == {"beta": 0.3}


@pytest.mark.parametrize("loss", CLIPS)
def test_both_clip_thresholds_are_always_on_the_wire(loss):
    for given in ({}, {"clip_low": 0.5}, {"clip_high": 3.0}, {"clip_low": 0.5, "clip_high": 3.0}):
        wanted = dict(zip(("clip_low", "clip_high"), CLIPS[loss], strict=True)) | given
        found = config(loss=loss, **given).loss_config()
        assert found == {f"{name}_threshold": value for name, value in wanted.items()}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"loss": "importance_sampling", "max_lag": 1}, "doesn't clip"),
        ({"loss": "importance_sampling", "substeps": 2}, "doesn't clip"),
        ({"grad_clip": 1.0}, "rescales every step"),
        ({"loss_norm": "episode_mean"}, "favours long wrong replies"),
    ],
)
def test_what_is_likely_not_meant_is_warned_of(values, line):
    (found,) = config(**values).warnings()
    assert line in found
    assert config().warnings() == config(max_lag=1).warnings() == []
    assert config(loss_norm="episode_mean", truncated="mask").warnings() == []


# Steps and the data's order


def test_a_batch_with_no_gradient_calls_no_adam_and_republishes_the_same_weights(fake_client):
    async def main():
        client = fake_client()
        trainer = Trainer(client, "ppo")
        first = await trainer.publish(0)
        trainer.accumulate([])
        update = await trainer.step(tinker.AdamParams(learning_rate=0.1))
        second = await trainer.publish(1)
        assert update.metrics == {} and client.calls == ["publish 0"] and trainer.optimizer_steps == 0
        assert second.client is first.client and second.version == 1

    asyncio.run(main())


class Billion:
    """Tasks made when they are asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 10**9

    def __getitem__(self, i):
        self.asked.append(i)
        return Two()


def test_a_place_among_a_billion_tasks_is_found_without_looking_at_others():
    tasks = Billion()
    order = Order(config(env=Given(given=tasks), groups_per_step=4))
    tasks.asked.clear()
    steps = [0, 1, 10**6, 249_999_999, 250_000_000, 10**12]
    tracemalloc.start()
    for step in steps:
        order.task(step, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    places = [divmod(4 * step + 3, 10**9) for step in steps]
    assert tasks.asked == [shuffled(at, 10**9, 0, "order", epoch) for epoch, at in places]
    assert peak < 100_000


def test_the_step_alone_says_which_task_a_group_plays():
    tasks = [Two() for _ in range(5)]
    cfg = config(env=Given(given=tasks), groups_per_step=2)
    backwards = [Order(cfg).task(step, g) for step in reversed(range(5)) for g in (1, 0)][::-1]
    order = Order(cfg)
    forwards = [order.task(step, g) for step in range(5) for g in (0, 1)]
    assert all(a is b for a, b in zip(forwards, backwards, strict=True))
    assert {id(t) for t in forwards[:5]} == {id(t) for t in forwards[5:]} == {id(t) for t in tasks}


def test_the_learning_rate_follows_the_batches_consumed():
    cfg = config(lr=0.1, lr_schedule="cosine", warmup_steps=2)
    rates = [cfg.adam(step, 6).learning_rate for step in range(6)]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.1 * (2 + 2**0.5) / 4, 0.05, 0.1 * (2 - 2**0.5) / 4])


# Evaluation


class Chat:
    """A renderer of one token a message."""

    def build_generation_prompt(self, messages, tools=()):
        return Rendered([1], [0.0])

    def get_stop_sequences(self):
        return [2]

    def parse_response(self, tokens, prompt_ids=None, tools=()):
        return SimpleNamespace(message={"role": "assistant", "content": ""})


def played(player, version=0):
    """The sampling parameters of an evaluation on three tasks."""
    asked = []

    class Client:
        async def sample(self, prompt, num_samples, sampling_params):
            asked.append(sampling_params)
            one = {"tokens_np": np.array([2], np.int32), "logprobs_np": np.array([-1.0], np.float32)}
            reply = tinker.SampledSequence(stop_reason="stop", sequence_id="x", **one)
            return tinker.SampleResponse(sequences=[reply])

    row = asyncio.run(evaluate([Two()] * 3, player, Sampler(Client(), version), seed=7))  # type: ignore[arg-type]
    assert (row["right"], row["wrong"], row["n"], row["reward"]) == (
        0,
        3,
        3,
        1.0,
    )  # the verdict, not the reward
    assert row["correct"] == 0 and row["correct_se"] == 0
    return asked


def test_evaluation_has_its_own_temperature_and_the_same_seeds_for_every_version():
    first, later = (played(Player(Chat(), 4, Limits(), temperature=0.0), version) for version in (0, 20))
    assert {p.temperature for p in first} == {0.0}
    assert (
        [p.seed for p in first]
        == [p.seed for p in later]
        == [stream(7, "eval", i, 0, 0, 0) for i in range(3)]
    )
