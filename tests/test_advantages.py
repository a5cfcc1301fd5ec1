"""Baselines, KL terms and off-policy weights, against arrays computed by hand."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook import Episode
from cookbook.advantages import (
    ADVANTAGES,
    advantages,
    grpo,
    kl_penalty,
    mean,
    named,
    none,
    off_policy_weights,
    rloo,
    to_go,
)
from cookbook.errors import ConfigError, EnvError

quiet = settings(database=None, deadline=None, max_examples=60)
rewards = st.lists(st.none() | st.floats(-5, 5), min_size=2, max_size=12)
BASELINES = {"mean": mean, "grpo": grpo, "rloo": rloo}
all_baselines = pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)


def episode(reward=1.0, seat=0):
    return Episode([], [], reward, None, "done", 0, seat)


def group(*rewards, seats=None):
    return [episode(r, s) for r, s in zip(rewards, seats or [0] * len(rewards), strict=True)]


def halves(episodes_G):
    return np.array([e.reward / 2 for e in episodes_G])


def one_for_all(episodes_G):
    return np.array([1.0])


def not_finite(episodes_G):
    return np.array([math.nan] * len(episodes_G))


def nothing(episodes_G):
    return None


# Baselines


def test_the_mean_advantage_is_the_reward_less_the_groups_mean_and_divided_by_nothing():
    assert mean(group(10.0, 0.0, 0.0, 10.0)).tolist() == [5.0, -5.0, -5.0, 5.0]


def test_grpo_divides_by_the_std_of_ddof_1_plus_its_epsilon():
    found = grpo(group(3.0, 1.0, 2.0))  # std with ddof 1 is 1; with ddof 0 it would be 0.816
    assert found == pytest.approx(np.array([1.0, -1.0, 0.0]) / (1 + 1e-6), abs=1e-12)


def test_rloo_is_the_reward_less_the_mean_of_the_others():
    found = rloo(group(3.0, 1.0, 2.0, 6.0))
    assert found == pytest.approx([3 - 9 / 3, 1 - 11 / 3, 2 - 10 / 3, 6 - 6 / 3])


def test_none_is_the_reward_itself_and_0_without_a_verdict():
    assert none(group(3.0, None, -1.0)).tolist() == [3.0, 0.0, -1.0]
    assert none(group(2.0)).tolist() == [2.0]  # no baseline, so one verdict is enough
    assert none(group(None, None)) is None


def test_batch_std_divides_by_the_std_of_all_the_batchs_verdicts():
    batch = [group(1.0, 3.0), group(5.0, 5.0), group(None, 7.0), []]
    found = advantages("batch_std", batch)
    scale = math.sqrt(((1 - 4.2) ** 2 + (3 - 4.2) ** 2 + 2 * (5 - 4.2) ** 2 + (7 - 4.2) ** 2) / 4) + 1e-6
    assert found[0] == pytest.approx(np.array([-1.0, 1.0]) / scale)
    assert found[1].tolist() == [0.0, 0.0] and found[2] is None and found[3] is None


def test_batch_std_of_a_single_verdict_or_none_divides_by_the_epsilon_alone():
    assert advantages("batch_std", [group(1.0, None), group(None)]) == [None, None]
    assert advantages("batch_std", [group(2.0, 2.0)])[0].tolist() == [0.0, 0.0]


@all_baselines
def test_an_episode_without_a_verdict_counts_in_no_baseline_and_gets_0(baseline):
    with_it, without = baseline(group(1.0, None, 0.0, 0.5)), baseline(group(1.0, 0.0, 0.5))
    assert with_it[1] == 0 and with_it[[0, 2, 3]].tolist() == without.tolist()


@all_baselines
@pytest.mark.parametrize("given", [(None, None), (1.0, None), (None,), (1.0,), ()])
def test_a_group_with_fewer_than_two_verdicts_is_dropped(baseline, given):
    assert baseline(group(*given)) is None


@pytest.mark.parametrize("name", ["mean", "grpo", "rloo", "batch_std"])
@pytest.mark.parametrize("reward", [0.1, 1 / 3, -0.7, 0.0])
def test_a_constant_group_gets_exactly_0(name, reward):
    rewards = group(*[reward] * 7, None)  # 0.1 less the float mean of seven 0.1 is 1e-17
    assert advantages(name, [rewards])[0].tolist() == [0.0] * 8


@all_baselines
def test_baselines_are_taken_seat_by_seat(baseline):
    found = baseline(group(1.0, 0.0, 0.0, 4.0, seats=[0, 1, 0, 1]))
    assert found[[0, 2]].tolist() == baseline(group(1.0, 0.0)).tolist()
    assert found[[1, 3]].tolist() == baseline(group(0.0, 4.0)).tolist()


def test_a_seat_with_one_verdict_gets_0_while_the_others_have_a_baseline():
    assert mean(group(1.0, 9.0, 0.0, None, seats=[0, 1, 0, 1])).tolist() == [0.5, 0.0, -0.5, 0.0]
    assert mean(group(1.0, 9.0, seats=[0, 1])) is None


@quiet
@given(rewards)
def test_advantages_of_a_group_sum_to_0(given):
    for baseline in BASELINES.values():
        found = baseline(group(*given))
        assert found is None or abs(found.sum()) < 1e-8


@quiet
@given(rewards, st.randoms())
def test_advantages_do_not_depend_on_the_order_of_the_episodes(given, random):
    order = random.sample(range(len(given)), len(given))
    for name in ADVANTAGES:
        (found,) = advantages(name, [group(*given)])
        (moved,) = advantages(name, [group(*(given[i] for i in order))])
        assert (found is None) == (moved is None)
        assert found is None or np.allclose(found[order], moved, atol=1e-9, rtol=1e-9)


@quiet
@given(st.floats(-5, 5), st.integers(2, 16))
def test_any_constant_group_is_exactly_0(reward, n):
    assert not any(baseline(group(*[reward] * n)).any() for baseline in BASELINES.values())


# Functions of somebody's own


def test_a_function_of_ones_own_is_named_by_module_and_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])
    assert named("own:halves") is halves
    assert advantages("own:halves", [group(1.0, 3.0)])[0].tolist() == [0.5, 1.5]
    assert advantages("own:nothing", [group(1.0, 3.0)]) == [None]
    for name in ("one_for_all", "not_finite"):
        with pytest.raises(EnvError, match=f"advantage=own:{name} gave .* for 2 episodes"):
            advantages(f"own:{name}", [group(1.0, 3.0)])


@pytest.mark.parametrize(
    "name", ["magic", "", "json", "json:nope", "no_such_module:f", "json:__doc__", ":f", ".json:loads"]
)
def test_a_name_that_leads_to_no_function_is_refused(name):
    with pytest.raises(ConfigError, match="advantage="):
        named(name)


def test_a_function_of_ones_own_is_not_asked_about_a_group_that_an_error_dropped(monkeypatch):
    asked = []
    own = types.SimpleNamespace(count=lambda g: asked.append(len(g)) or np.zeros(len(g)))
    monkeypatch.setitem(sys.modules, "own", own)
    assert advantages("own:count", [[], group(1.0, 2.0)])[0] is None
    assert asked == [2]


# KL


def test_to_go_is_the_discounted_sum_of_what_follows():
    values = np.array([1.0, 2.0, 4.0])
    assert to_go(values, 0.0).tolist() == [1, 2, 4]
    assert to_go(values, 1.0).tolist() == [7, 6, 4]
    assert to_go(values, 0.5).tolist() == [3, 4, 4]
    assert to_go(values[:0], 0.5).tolist() == []


@quiet
@given(st.lists(st.floats(-3, 3), max_size=20), st.floats(0, 1))
def test_to_go_equals_its_definition(values, discount):
    n = len(values)
    wanted = [sum(discount ** (j - t) * values[j] for j in range(t, n)) for t in range(n)]
    assert np.allclose(to_go(np.array(values), discount), wanted, atol=1e-9)


def test_a_penalty_that_is_not_centred_is_minus_coef_times_the_divergence_to_go():
    found = kl_penalty([np.array([1.0, 2.0]), np.array([-3.0])], 0.1, 0.5, centre=False)
    assert found[0] == pytest.approx([-0.2, -0.2]) and found[1] == pytest.approx([0.3])


def test_a_centred_penalty_is_measured_from_the_mean_over_all_action_tokens():
    found = kl_penalty([np.array([1.0, 2.0]), np.array([3.0])], 0.5, 1.0, centre=True)
    assert found[0] == pytest.approx(0.5 * (8 / 3 - np.array([3.0, 2.0])))  # K: 3, 2 and 3
    assert found[1] == pytest.approx(0.5 * (8 / 3 - np.array([3.0])))


def test_no_action_tokens_make_no_penalty():
    assert kl_penalty([], 1.0, 0.5, True) == []
    assert [p.tolist() for p in kl_penalty([np.zeros(0)], 1.0, 0.5, True)] == [[]]


@quiet
@given(
    st.lists(st.lists(st.floats(-3, 3), max_size=6), max_size=5),
    st.floats(0, 2),
    st.floats(0, 1),
)
def test_a_centred_penalty_shifts_no_mean_advantage(divergences, coef, discount):
    found = kl_penalty([np.array(d) for d in divergences], coef, discount, centre=True)
    assert [len(p) for p in found] == [len(d) for d in divergences]
    assert abs(sum(float(p.sum()) for p in found)) < 1e-8


# Off-policy weights


def test_token_truncate_bounds_the_ratio_from_above_only():
    log_ratio = np.log([0.1, 1.0, 1.9, 4.0])
    assert off_policy_weights("token_truncate", log_ratio, 2.0) == pytest.approx([0.1, 1.0, 1.9, 2.0])


def test_token_mask_is_1_within_the_cap_and_its_inverse_and_else_0():
    log_ratio = np.log([0.4, 0.6, 1.0, 1.9, 2.1])
    assert off_policy_weights("token_mask", log_ratio, 2.0).tolist() == [0, 1, 1, 1, 0]


def test_sequence_mask_judges_all_tokens_by_their_geometric_mean():
    assert off_policy_weights("sequence_mask", np.log([8.0, 0.25]), 2.0).tolist() == [1, 1]  # sqrt(2)
    assert off_policy_weights("sequence_mask", np.log([8.0, 1.0]), 2.0).tolist() == [0, 0]  # sqrt(8)
    assert off_policy_weights("sequence_mask", np.log([0.1, 1.0]), 2.0).tolist() == [0, 0]
    assert off_policy_weights("sequence_mask", np.zeros(0), 2.0).tolist() == []


@pytest.mark.parametrize("kind", ["token_truncate", "token_mask", "sequence_mask"])
def test_what_is_on_policy_keeps_its_advantage(kind):
    assert off_policy_weights(kind, np.zeros(3), 1.0).tolist() == [1, 1, 1]
