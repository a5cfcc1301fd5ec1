"""The numbers of a run's rows, against those computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook import Episode, Turn
from cookbook.backends.base import Update
from cookbook.data import Example, Shaped, correct, to_data, to_samples
from cookbook.metrics import Batch, Clock, nll, of_episodes, of_policy, of_supervised, of_tokens, summarize

quiet = settings(database=None, deadline=None, max_examples=60)


def turn(prompt, tokens, logprobs):
    return Turn(prompt, tokens, logprobs, {"role": "assistant", "content": ""}, True)


TURNS = [turn([1, 2], [3, 4], [-1.0, -2.0])]
SPLIT = [turn([1, 2], [3, 4], [-1.0, -2.0]), turn([1, 9], [6], [-3.0])]


def episode(reward=1.0, turns=TURNS, correct=None, stop="done", metrics=()):
    return Episode(list(turns), [], reward, correct, stop, 5, 0, dict(metrics))


def samples_of(*turns_N, advantages=None):
    group = [episode(1.0, turns) for turns in turns_N]
    return to_samples([group], [np.array(advantages or [1.0] * len(group))], False)


def sequences_of(*turns_N, advantages=None):
    return [s for sample in samples_of(*turns_N, advantages=advantages) for s in sample.sequences]


def moved(sequences, us):
    """The trainer's logprobs of targets: the sampler's plus u on sampled tokens, and 7 elsewhere."""
    rest = iter(us)
    return [
        np.array(
            [p + next(rest) if a else 7.0 for p, a in zip(s.logprobs_T[1:], s.action_T[1:], strict=True)]
        )
        for s in sequences
    ]


# Policy against trainer


def test_kl_ratio_and_effective_sample_size_are_over_the_sampled_tokens_with_an_advantage():
    sequences = sequences_of(TURNS, TURNS, advantages=[1.0, 0.0])
    u = np.log([2.0, 0.5])
    found = of_policy(sequences, moved(sequences, [*u, 9.0, 9.0]), "importance_sampling", None)
    assert found["train/kl_k1"] == pytest.approx(0, abs=1e-9)
    assert found["train/kl_k3"] == pytest.approx((2 - 1 - u[0] + 0.5 - 1 - u[1]) / 2)
    assert found["policy/ratio_mean"] == pytest.approx(1.25)
    assert found["policy/ratio_max"] == pytest.approx(2)
    assert found["policy/ess"] == pytest.approx(2.5**2 / (2 * (4 + 0.25)))
    assert "policy/clip_share" not in found


def test_on_policy_numbers_are_0_and_1():
    sequences = sequences_of(SPLIT)
    found = of_policy(sequences, moved(sequences, [0.0] * 3), "ppo", (0.8, 1.2))
    assert found == {
        "train/kl_k1": 0,
        "train/kl_k3": 0,
        "policy/ratio_mean": 1,
        "policy/ratio_max": 1,
        "policy/ess": 1,
        "policy/clip_share": 0,
    }


def test_the_clip_share_counts_ratios_outside_the_two_thresholds():
    sequences = sequences_of(SPLIT)
    logprobs = moved(sequences, np.log([0.7, 1.0, 1.3]))
    for clip, share in {(0.8, 1.2): 2 / 3, (0.5, 1.2): 1 / 3, (0.0, 5.0): 0}.items():
        assert of_policy(sequences, logprobs, "ppo", clip)["policy/clip_share"] == pytest.approx(share)


def test_gspos_clip_share_is_of_the_sequences_geometric_mean():
    sequences = sequences_of(TURNS, TURNS[:1], [turn([1], [2], [-1.0])])
    logprobs = moved(sequences, [0.5, -0.5, 0.2, 0.2, 0.0])  # means 0, 0.2 and 0
    found = of_policy(sequences, logprobs, "gspo", (0.9, 1.1))
    assert found["policy/clip_share"] == pytest.approx(2 / 5)
    assert of_policy(sequences, logprobs, "ppo", (0.9, 1.1))["policy/clip_share"] == pytest.approx(4 / 5)
    assert found["policy/ratio_max"] == pytest.approx(math.exp(0.5))  # the tokens' own


def test_the_clip_share_of_a_decoupled_loss_is_of_the_ratio_that_the_loss_clips():
    sequences = sequences_of(SPLIT)
    logprobs = moved(sequences, np.log([0.7, 1.0, 1.3]))
    correct(sequences, logprobs, "token_truncate", 2.0)
    found = of_policy(sequences, logprobs, "ppo", (0.8, 1.2))
    assert found["policy/ratio_max"] == pytest.approx(1.3)  # still of the trainer to the sampler
    assert found["policy/clip_share"] == 0  # before its first update the loss's own ratio is 1


def test_nothing_trained_on_gives_no_numbers():
    assert of_policy([], [], "ppo", (0.8, 1.2)) == {}
    sequences = sequences_of(TURNS, advantages=[0.0])
    assert of_policy(sequences, moved(sequences, [1.0, 1.0]), "gspo", (0.8, 1.2)) == {}


@quiet
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12))
def test_k3_is_never_negative_and_the_effective_size_is_a_share(us):
    sequences = sequences_of([turn([1], [2] * len(us), [-1.0] * len(us))])
    found = of_policy(sequences, moved(sequences, us), "ppo", (0.8, 1.2))
    assert found["train/kl_k3"] >= 0 and 0 < found["policy/ess"] <= 1 + 1e-9
    assert found["train/kl_k1"] == pytest.approx(-np.mean(us), abs=1e-6)


# Tokens and episodes


def test_entropy_is_minus_the_mean_logprob_and_splits_are_counted_by_episode():
    found = of_tokens(samples_of(TURNS, SPLIT, []))
    assert found == {"episodes/split": pytest.approx(1 / 3), "policy/entropy": pytest.approx(9 / 5)}
    assert of_tokens([]) == {} and of_tokens(samples_of([])) == {}


def test_right_wrong_and_undecided_are_told_apart():
    # a reward above 0 says nothing of the verdict
    found = summarize([episode(0.5, correct=False)] * 3 + [episode(-1.0, correct=True), episode(None)])
    assert found == {
        "reward": pytest.approx(0.125),
        "correct": 0.25,
        "correct_se": pytest.approx(math.sqrt(0.25 * 0.75 / 4)),
        "right": 1,
        "wrong": 3,
        "undecided": 1,
        "n": 5,
    }


def test_a_share_of_no_verdicts_is_left_out_rather_than_0():
    assert summarize([episode(None)]) == {"right": 0, "wrong": 0, "undecided": 1, "n": 1}
    assert summarize([])["n"] == 0


def test_groups_that_teach_nothing_are_told_apart_by_why():
    undecided, constant, teaching = [episode(None)] * 2, [episode(1.0)] * 2, [episode(0.0), episode(2.0)]
    advantages = [None, None, np.zeros(2), np.array([-1.0, 1.0])]
    found = of_episodes([[], undecided, constant, teaching], advantages)
    assert [found[f"groups/{name}"] for name in ("failed", "no_verdict", "constant")] == [0.25] * 3
    assert found["version"] == 5 and found["reward"] == 1.0


def test_lengths_stops_and_the_envs_own_numbers_are_means():
    group = [
        episode(1.0, SPLIT, stop="max_turns", metrics={"a": 3.0}),
        episode(1.0, TURNS),
        episode(1.0, TURNS),
    ]
    found = of_episodes([group], [np.zeros(3)])
    assert found["tokens/sampled"] == 7 and found["tokens/reply"] == 7 / 4 and found["turns"] == 4 / 3
    assert found["stop/max_turns"] == pytest.approx(1 / 3) and found["stop/done"] == pytest.approx(2 / 3)
    assert found["env/a"] == 3.0


def test_a_batch_whose_groups_all_failed_has_a_row():
    batch = Batch()
    batch.add(Shaped([[], []], [None, None], [], [([], [])]))
    row = batch.row([Update({}, [])], "ppo", (0.8, 1.2))
    assert row["groups/failed"] == 1 and row["n"] == 0 and "policy/entropy" not in row


# A batch's row


def part(*pieces, kl=None):
    """One group for each piece; a piece is a substep's turns."""
    groups = [[episode(1.0, turns)] for turns in pieces]
    samples = to_samples(groups, [np.ones(1)] * len(groups), False)
    return Shaped(
        groups, [np.ones(1)] * len(groups), samples, [to_data([s], "ppo", False) for s in samples], kl
    )


def test_the_policys_numbers_are_given_by_age_where_there_are_substeps():
    batch = Batch()
    shaped = batch.add(part(TURNS, SPLIT))
    us = [[0.0, 0.0], [1.0, 1.0, 1.0]]
    logprobs = [moved(sequences, u) for (_, sequences), u in zip(shaped.pieces_K, us, strict=True)]
    updates = [
        Update({"loss": 1.0, "norm": 2.0}, logprobs[0]),
        Update({"loss": 3.0, "norm": 4.0}, logprobs[1]),
    ]
    row = batch.row(updates, "ppo", (0.8, 1.2))
    assert row["age_0/train/kl_k1"] == 0 and row["age_1/train/kl_k1"] == pytest.approx(-1)
    assert row["train/kl_k1"] == pytest.approx(-3 / 5)
    assert row["age_0/policy/clip_share"] == 0 and row["age_1/policy/clip_share"] == 1
    assert row["train/loss"] == 4 and row["train/norm"] == 3  # a sum over the batch; a mean of the rest


def test_one_optimizer_step_has_no_ages():
    batch = Batch()
    for shaped in (part(TURNS, kl=0.5), part(SPLIT, kl=1.5)):  # two minibatches
        batch.add(shaped)
    sequences = sequences_of(TURNS, SPLIT)
    row = batch.row([Update({"loss": 1.0}, moved(sequences, [0.5] * 5))], "ppo", (0.8, 1.2))
    assert not any(name.startswith("age_") for name in row)
    assert row["train/kl_k1"] == pytest.approx(-0.5) and row["kl/reference"] == 1.0 and row["n"] == 2


def test_a_batch_that_trains_nothing_has_a_row_without_the_policys_numbers():
    batch = Batch()
    samples = to_samples([[episode(), episode()]], [np.zeros(2)], False)
    batch.add(Shaped([[episode(), episode()]], [np.zeros(2)], samples, [to_data(samples, "ppo", False)]))
    row = batch.row([Update({}, [])], "ppo", (0.8, 1.2))
    assert row["groups/constant"] == 1 and row["policy/entropy"] == 1.5
    assert not any(name.startswith("train/") for name in row)


# Supervised


def test_nll_is_the_weighted_sum_over_targets():
    examples = [
        Example(np.arange(4), np.array([1.0, 0.0, 1.0, 0.5])),
        Example(np.arange(2), np.array([0.0, 1.0])),
    ]
    found = nll(examples, [np.array([-9.0, -1.0, -2.0]), np.array([-4.0])])
    assert found == (1 + 1 + 4, 2.5)


def test_a_supervised_row_is_nats_a_trained_token_and_counts_what_was_cut_off():
    kept, cut = Example(np.arange(3), np.array([0.0, 1.0, 1.0])), Example(np.arange(5), np.zeros(5))
    row = of_supervised([kept, cut], Update({"loss": 2.0}, [np.array([-1.0, -2.0])]))
    assert row == {
        "nll": 1.5,
        "tokens/trained": 2,
        "tokens/all": 8,
        "examples/cut_off": 0.5,
        "train/loss": 2.0,
    }
    assert "nll" not in of_supervised([cut], Update({}, []))


# The clock


def test_laps_add_up_to_the_step_and_what_follows_a_row_is_in_the_next():
    times = iter([0.0, 1.0, 3.0, 3.5, 10.0])
    clock = Clock(lambda: next(times))
    clock.lap("wait")
    clock.lap("data")
    clock.lap("wait")
    assert clock.row() == {"time/wait_s": 1.5, "time/data_s": 2.0, "time/step_s": 3.5}
    clock.lap("save")
    assert clock.row() == {"time/save_s": 6.5, "time/step_s": 6.5}
    assert clock.row() == {"time/step_s": 0}
