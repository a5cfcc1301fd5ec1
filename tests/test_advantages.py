"""Advantages and datums, against arrays computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cookbook import Episode, Turn
from cookbook.advantages import mean
from cookbook.data import drift, sequences, to_data

rewards = st.lists(st.none() | st.floats(-5, 5), min_size=2, max_size=12)


def episode(reward=1.0, seat=0, turns=()):
    return Episode(list(turns), [], reward, None, "done", 0, seat)


def turn(prompt, tokens, logprobs):
    return Turn(prompt, tokens, logprobs, {"role": "assistant", "content": ""}, True)


def arrays(datum):
    return [datum.model_input.to_ints()] + [
        datum.loss_fn_inputs[n].to_numpy().tolist() for n in ("target_tokens", "logprobs", "advantages")
    ]


def test_the_advantage_is_the_reward_less_the_groups_mean():
    assert mean([episode(r) for r in (1.0, 0.0, 0.0, 1.0)]).tolist() == [0.5, -0.5, -0.5, 0.5]


def test_an_episode_without_a_verdict_counts_in_no_mean_and_gets_0():
    assert mean([episode(r) for r in (1.0, None, 0.0)]).tolist() == [0.5, 0.0, -0.5]


@pytest.mark.parametrize("given", [(None, None), (1.0, None), (None,)])
def test_a_group_with_fewer_than_two_verdicts_is_dropped(given):
    group = [episode(r) for r in given]
    assert mean(group) is None and to_data(group, mean(group)) == []


def test_a_constant_group_gets_exactly_0():
    assert mean([episode(0.1)] * 3).tolist() == [0.0, 0.0, 0.0]  # a float mean would leave 1e-17


def test_baselines_are_taken_seat_by_seat():
    group = [episode(1.0, 0), episode(0.0, 1), episode(0.0, 0), episode(4.0, 1)]
    assert mean(group).tolist() == [0.5, -2.0, -0.5, 2.0]


@given(rewards)
def test_advantages_sum_to_0_and_do_not_depend_on_the_order(given):
    group = [episode(r) for r in given]
    found = mean(group)
    if found is not None:
        assert abs(found.sum()) < 1e-9
        assert np.allclose(mean(group[::-1])[::-1], found, atol=1e-12)


def test_a_datum_is_shifted_by_one_and_its_advantage_stands_on_action_tokens_only():
    turns = [turn([1, 2], [3, 4], [-0.1, -0.2]), turn([1, 2, 3, 4, 5], [6], [-0.3])]
    (datum,) = to_data([episode(turns=turns)], np.array([2.0]))
    tokens, targets, logprobs, advantages = arrays(datum)
    assert tokens == [1, 2, 3, 4, 5] and targets == [2, 3, 4, 5, 6]
    assert np.allclose(logprobs, [0, -0.1, -0.2, 0, -0.3])
    assert advantages == [0, 2, 2, 0, 2]
    assert set(datum.loss_fn_inputs) == {"target_tokens", "logprobs", "advantages"}  # no mask on the wire


def test_a_history_that_was_edited_opens_a_new_datum_with_the_same_advantage():
    turns = [turn([1, 2], [3, 4], [-0.1, -0.2]), turn([1, 2, 9, 5], [6], [-0.3])]
    assert len(sequences(turns)) == 2
    first, second = to_data([episode(turns=turns)], np.array([-1.0]))
    assert arrays(first)[3] == [0, -1, -1] and arrays(second)[3] == [0, 0, 0, -1]


def test_an_episode_of_advantage_0_gives_no_datum():
    turns = [turn([1], [2], [-0.5])]
    group = [episode(r, turns=turns) for r in (1.0, 0.5, 0.0)]
    assert [arrays(d)[3] for d in to_data(group, mean(group))] == [[0.5], [-0.5]]


def test_drift_is_the_mean_over_action_tokens_of_the_two_estimates():
    (datum,) = to_data([episode(turns=[turn([1, 2], [3, 4], [-1.0, -2.0])])], np.array([1.0]))
    u = np.array([0.5, -0.25])
    found = drift([datum], [np.array([7.0, *(np.array([-1.0, -2.0]) + u)], dtype=np.float32)])
    assert found["train/kl_k1"] == pytest.approx(-u.mean())
    assert found["train/kl_k3"] == pytest.approx((np.exp(u) - 1 - u).mean())
    assert drift([], []) == {}
