"""Datums and the shaping of advantages, against arrays computed by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook import Episode, Turn
from cookbook.advantages import mean
from cookbook.data import (
    Example,
    add_kl,
    correct,
    observe,
    scale,
    sequences,
    supervised_data,
    to_data,
    to_example,
    to_samples,
)
from cookbook.rendering import Rendered

quiet = settings(database=None, deadline=None, max_examples=60)
NORMS = ["sum", "constant", "token_mean", "episode_mean"]


def turn(prompt, tokens, logprobs=None):
    logprobs = [-0.5] * len(tokens) if logprobs is None else logprobs
    return Turn(prompt, tokens, logprobs, {"role": "assistant", "content": ""}, True)


MERGED = [turn([1, 2], [3, 4], [-0.1, -0.2]), turn([1, 2, 3, 4, 5], [6], [-0.3])]
SPLIT = [turn([1, 2], [3, 4], [-0.1, -0.2]), turn([1, 2, 9], [6], [-0.3])]


def episode(reward=1.0, turns=(), stop="done"):
    return Episode(list(turns), [], reward, None, stop, 0)


def samples_of(*turns_N, advantages=None, mask=False):
    """One group, of the given advantages, 1 where there are none."""
    group = [episode(1.0, turns) for turns in turns_N]
    return to_samples([group], [np.array(advantages or [1.0] * len(group))], mask)


def arrays(datum):
    names = ("target_tokens", "logprobs", "advantages")
    return [datum.model_input.to_ints(), *(datum.loss_fn_inputs[n].to_numpy().tolist() for n in names)]


def shaped(samples):
    return [s.advantages_T.tolist() for sample in samples for s in sample.sequences]


@st.composite
def plays(draw):
    """Turns that extend what came before, or are about something else."""
    turns, so_far = [], draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
    for _ in range(draw(st.integers(1, 4))):
        reply = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
        turns.append(turn(so_far, reply, [-(i + 1) / 8 for i in range(len(reply))]))
        so_far = so_far + reply if draw(st.booleans()) else so_far[:1] + [99]
        so_far = so_far + draw(st.lists(st.integers(0, 9), max_size=3))
    return turns


# Token sequences


def test_turns_that_extend_one_another_are_one_sequence_with_actions_where_they_were_sampled():
    (found,) = sequences(MERGED)
    assert found.tokens_T.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.action_T.tolist() == [False, False, True, True, False, True]
    assert found.logprobs_T == pytest.approx([0, 0, -0.1, -0.2, 0, -0.3])
    assert found.advantages_T.tolist() == [0] * 6 and found.proximal_T is None


@pytest.mark.parametrize("prompt", [[1, 2, 9], [1, 2, 3], [1, 9, 3, 4, 5], [1, 2, 3, 9, 5], [1]])
def test_a_history_that_was_edited_opens_a_new_sequence(prompt):
    first, second = sequences([MERGED[0], turn(prompt, [6])])
    assert first.tokens_T.tolist() == [1, 2, 3, 4] and second.tokens_T.tolist() == [*prompt, 6]


def test_a_sequence_goes_on_after_an_edit_from_what_was_edited():
    found = sequences([*SPLIT, turn([1, 2, 9, 6, 7], [8])])
    assert [s.tokens_T.tolist() for s in found] == [[1, 2, 3, 4], [1, 2, 9, 6, 7, 8]]


def test_an_episode_that_ended_before_its_first_reply_has_no_sequence():
    assert sequences([]) == []


@quiet
@given(plays())
def test_no_sampled_token_is_lost_doubled_or_moved(turns):
    found = sequences(turns)
    sampled = [t for s in found for t in s.tokens_T[s.action_T].tolist()]
    assert sampled == [t for turn in turns for t in turn.tokens_T]
    logprobs = [p for s in found for p in s.logprobs_T[s.action_T].tolist()]
    assert logprobs == [p for turn in turns for p in turn.logprobs_T]
    assert not any(s.logprobs_T[~s.action_T].any() for s in found)


# Policy-gradient datums


def test_a_datum_is_shifted_by_one_and_its_advantage_stands_on_action_tokens_only():
    (datum,), (sequence,) = to_data(samples_of(MERGED, advantages=[2.0]), "ppo", False)
    tokens, targets, logprobs, advantages = arrays(datum)
    assert tokens == [1, 2, 3, 4, 5] and targets == [2, 3, 4, 5, 6]
    assert logprobs == pytest.approx([0, -0.1, -0.2, 0, -0.3])
    assert advantages == [0, 2, 2, 0, 2]
    assert sequence.tokens_T.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "cispo", "dro"])
def test_no_mask_goes_on_the_wire(loss):
    (datum,), _ = to_data(samples_of(MERGED), loss, False)
    assert set(datum.loss_fn_inputs) == {"target_tokens", "logprobs", "advantages"}


def test_gspo_is_told_which_tokens_its_sequences_ratio_is_over():
    (datum,), _ = to_data(samples_of(MERGED), "gspo", False)
    assert datum.loss_fn_inputs["sequence_ratio_mask"].to_numpy().tolist() == [0, 1, 1, 0, 1]


def test_every_datum_of_an_episode_has_the_same_advantage():
    data, _ = to_data(samples_of(SPLIT, advantages=[-1.0]), "ppo", False)
    assert [arrays(d)[3] for d in data] == [[0, -1, -1], [0, 0, -1]]


@quiet
@given(st.lists(plays(), min_size=2, max_size=4), st.sampled_from(["ppo", "gspo", "dro"]))
def test_inputs_are_aligned_and_targets_are_the_next_tokens(turns_N, loss):
    for datum, sequence in zip(*to_data(samples_of(*turns_N), loss, False), strict=True):
        tokens, targets, _, advantages = arrays(datum)
        assert [*tokens, targets[-1]] == sequence.tokens_T.tolist() and tokens[1:] == targets[:-1]
        assert {len(v.to_numpy()) for v in datum.loss_fn_inputs.values()} == {len(tokens)}
        assert advantages == sequence.action_T[1:].astype(float).tolist()


# Dropping


def test_a_datum_whose_advantages_are_all_0_is_dropped_unless_it_shall_be_kept():
    samples = samples_of(MERGED, MERGED, advantages=[0.0, 1.0])
    assert len(to_data(samples, "ppo", False)[0]) == 1 and len(to_data(samples, "ppo", True)[0]) == 2


def test_dro_drops_nothing_that_may_train_as_its_loss_is_not_homogeneous():
    assert len(to_data(samples_of(MERGED, SPLIT, advantages=[0.0, 0.0]), "dro", False)[0]) == 3


@pytest.mark.parametrize("loss", ["ppo", "dro"])
@pytest.mark.parametrize("keep", [False, True])
def test_what_may_not_train_is_always_dropped(loss, keep):
    groups = [[episode(None, MERGED), episode(1.0, MERGED, "max_tokens")], [episode(None, MERGED)]]
    samples = to_samples(groups, [np.array([0.0, 1.0]), None], mask_cut_off=True)
    assert [s.trains for s in samples] == [False] * 3 and to_data(samples, loss, keep) == ([], [])


def test_dropping_comes_after_all_shaping():
    samples = samples_of(MERGED, advantages=[0.0])
    add_kl(samples, [np.full(6, -1.0)], coef=1.0, discount=0.0, centre=False)
    assert len(to_data(samples, "ppo", False)[0]) == 1
    correct(samples[0].sequences, [np.full(5, 9.0)], "token_mask", 2.0)
    assert to_data(samples, "ppo", False)[0] == []


@pytest.mark.parametrize("stop", ["max_tokens", "max_turns", "max_episode_tokens", "timeout", "table"])
def test_a_masked_cut_off_episode_stays_in_the_baseline_and_has_advantage_0(stop):
    group = [episode(1.0, MERGED, stop), episode(0.0, MERGED)]
    masked, whole = to_samples([group], [mean(group)], mask_cut_off=True)
    assert not masked.sequences[0].advantages_T.any() and not masked.trains
    assert set(whole.sequences[0].advantages_T) == {0.0, -0.5}  # the mean of both, not of one
    assert all(s.trains for s in to_samples([group], [mean(group)], mask_cut_off=False))


# Loss scale


@pytest.mark.parametrize(
    ("norm", "divisors"),
    [("sum", [1, 1, 1]), ("constant", [60] * 3), ("token_mean", [9] * 3), ("episode_mean", [18, 18, 18])],
)
def test_each_loss_norm_divides_by_its_own_denominator(norm, divisors):
    samples = samples_of(MERGED, SPLIT, MERGED)  # three sampled tokens each, 9 in all
    scale(samples, norm, groups=2, sizes=[3], max_tokens=10)
    firsts = [sample.sequences[0].advantages_T[2] for sample in samples]
    assert firsts == pytest.approx([1 / d for d in divisors])


def test_an_episodes_length_is_over_all_its_datums():
    samples = samples_of(SPLIT)
    scale(samples, "episode_mean", 1, [1], 10)
    assert shaped(samples) == [[0, 0, 1 / 3, 1 / 3], [0, 0, 0, 1 / 3]]


def test_denominators_count_what_trains_nothing_too():
    group = [
        episode(None, MERGED),
        episode(1.0, MERGED, "timeout"),
        episode(0.0, MERGED),
        episode(2.0, MERGED),
    ]
    for norm, divisor in {"constant": 4 * 10, "token_mean": 12, "episode_mean": 4 * 3}.items():
        samples = to_samples([group], [np.array([0.0, 1.0, 0.0, 1.0])], mask_cut_off=True)
        scale(samples, norm, 1, [4], 10)
        assert to_data(samples, "ppo", False)[1][0].advantages_T[2] == pytest.approx(1 / divisor)


def test_planned_groups_count_rather_than_those_that_came():
    samples = samples_of(MERGED)
    scale(samples, "constant", groups=8, sizes=[2], max_tokens=5)
    assert samples[0].sequences[0].advantages_T[2] == 1 / 80


def test_nothing_sampled_is_divided_by_nothing():
    samples = samples_of([])
    scale(samples, "token_mean", 1, [1], 4)
    scale(samples, "episode_mean", 1, [1], 4)
    assert samples[0].actions == 0


# KL, observations and off-policy corrections


def test_kl_to_go_runs_over_later_action_tokens_past_observations_and_datum_borders():
    # d on the action tokens of SPLIT: 1, 2 | 4, with a wild reference on what wasn't sampled
    logprobs = [np.array([7, 7, -1.1, -2.2]), np.array([7, 7, 7, -4.3])]
    samples = samples_of(SPLIT, advantages=[10.0])
    kl = add_kl(samples, logprobs, coef=0.1, discount=0.5, centre=False)
    assert kl == pytest.approx(7 / 3)
    first, second = shaped(samples)
    assert first == pytest.approx([0, 0, 10 - 0.1 * (1 + 1 + 1), 10 - 0.1 * (2 + 2)])
    assert second == pytest.approx([0, 0, 0, 10 - 0.4])
    merged = samples_of(MERGED, advantages=[10.0])
    add_kl(merged, [np.array([7, 7, -1.1, -2.2, 7, -4.3])], 0.1, 0.5, False)
    assert shaped(merged)[0] == pytest.approx([0, 0, 9.7, 9.6, 0, 9.6])


def test_kl_does_not_run_from_one_episode_into_the_next_and_leaves_what_may_not_train_alone():
    group = [episode(1.0, MERGED[:1]), episode(None, MERGED), episode(0.0, MERGED[:1])]
    samples = to_samples([group], [np.zeros(3)], False)
    reference = [np.array([0, 0, -1.1, -1.2]), np.array([0, 0, -3.1, -3.2])]  # d: 1, 1 and 3, 3
    assert add_kl(samples, reference, coef=1.0, discount=1.0, centre=True) == pytest.approx(2)
    one, undecided, other = shaped(samples)  # K: 2, 1 and 6, 3; their mean is 3
    assert one == pytest.approx([0, 0, 1, 2], rel=1e-6)
    assert other == pytest.approx([0, 0, -3, 0], abs=1e-6)
    assert not any(undecided)


def test_a_batch_without_action_tokens_has_kl_0():
    assert add_kl([], [], 1.0, 0.5, True) == 0.0


def test_a_reference_of_another_length_is_an_error():
    with pytest.raises((ValueError, AssertionError)):
        add_kl(samples_of(MERGED), [np.zeros(5)], 1.0, 0.5, True)


def test_observations_get_the_samplers_logprobs_and_actions_keep_their_own():
    (sample,) = samples_of(MERGED)
    observe(sample.sequences, [np.array([0.0, -8, -8, -8, -9, -8])])
    (datum,), _ = to_data([sample], "dro", False)
    assert arrays(datum)[2] == pytest.approx([-8, -0.1, -0.2, -9, -0.3])
    assert arrays(datum)[3] == [0, 1, 1, 0, 1]


def test_truncated_ratios_weigh_advantages_and_the_loss_takes_its_own_ratio_to_the_trainer():
    (sample,) = samples_of(MERGED, advantages=[2.0])
    trainer = np.array([5.0, -0.1 + np.log(4), -0.2, 5.0, -0.3 + np.log(0.5)])
    correct(sample.sequences, [trainer], "token_truncate", 3.0)
    assert sample.sequences[0].advantages_T == pytest.approx([0, 0, 6, 2, 0, 1], rel=1e-6)
    (datum,), _ = to_data([sample], "ppo", False)
    assert arrays(datum)[2] == pytest.approx([0, *trainer[1:3], 0, trainer[4]])


@pytest.mark.parametrize(("kind", "left"), [("token_mask", [0, 2, 2]), ("sequence_mask", [2, 2, 2])])
def test_masks_zero_advantages_and_leave_the_samplers_logprobs(kind, left):
    (sample,) = samples_of(MERGED, advantages=[2.0])
    trainer = np.array([5.0, -0.1 + np.log(4), -0.2, 5.0, -0.3 + np.log(0.6)])  # geometric mean 1.34
    correct(sample.sequences, [trainer], kind, 3.0)
    (datum,), _ = to_data([sample], "ppo", False)
    assert arrays(datum)[3] == [0, *left[:2], 0, left[2]]
    assert arrays(datum)[2] == pytest.approx([0, -0.1, -0.2, 0, -0.3])


@quiet
@given(
    st.lists(plays(), min_size=1, max_size=4),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from(NORMS),
    st.sampled_from(["token_truncate", "token_mask", "sequence_mask"]),
)
def test_observations_have_advantage_0_after_all_shaping(turns_N, discount, centre, norm, kind):
    samples = samples_of(*turns_N)
    live = [s for sample in samples for s in sample.sequences]
    add_kl(samples, [np.linspace(-3, 0, len(s.tokens_T)) for s in live], 0.3, discount, centre)
    scale(samples, norm, 1, [len(turns_N)], 8)
    correct(live, [np.linspace(-1, 0, len(s.tokens_T) - 1) for s in live], kind, 2.0)
    assert not any(s.advantages_T[~s.action_T].any() for s in live)
    for datum, sequence in zip(*to_data(samples, "ppo", True), strict=True):
        assert not np.array(arrays(datum)[3])[~sequence.action_T[1:]].any()


@quiet
@given(st.lists(plays(), min_size=2, max_size=5), st.sampled_from(NORMS))
def test_denominators_do_not_depend_on_what_is_dropped(turns_N, norm):
    one = [1.0] + [0.0] * (len(turns_N) - 1)
    few, all_ = samples_of(*turns_N, advantages=one), samples_of(*turns_N)
    for samples in (few, all_):
        scale(samples, norm, 3, [len(turns_N)], 7)
    kept, whole = ([arrays(d) for d in to_data(s, "ppo", False)[0]] for s in (few, all_))
    assert len(kept) == len(few[0].sequences) and kept == whole[: len(kept)]


# Supervised


def example(*weights):
    return Example(np.arange(10, 10 + len(weights)), np.array(weights, dtype=float))


def weights_of(examples, reduction):
    return [d.loss_fn_inputs["weights"].to_numpy().tolist() for d in supervised_data(examples, reduction)]


def test_a_conversation_is_cut_on_the_right_before_the_shift_and_the_mean_comes_after_both():
    cut = to_example(Rendered([5, 6, 7, 8, 9], [0, 0, 1, 1, 1]), max_length=4)
    (datum,) = supervised_data([cut], "example_mean")
    assert datum.model_input.to_ints() == [5, 6, 7]
    assert set(datum.loss_fn_inputs) == {"target_tokens", "weights"}
    assert datum.loss_fn_inputs["target_tokens"].to_numpy().tolist() == [6, 7, 8]
    assert datum.loss_fn_inputs["weights"].to_numpy().tolist() == [0, 0.5, 0.5]  # not a third, not a quarter


@pytest.mark.parametrize(
    ("reduction", "wanted"),
    [
        ("example_mean", [[0, 1 / 4, 1 / 4, 0], [1 / 2, 0]]),
        ("token_mean", [[0, 1 / 3, 1 / 3, 0], [1 / 3, 0]]),
        ("token_sum", [[0, 1, 1, 0], [1, 0]]),
    ],
)
def test_each_reduction_divides_by_its_own_denominator(reduction, wanted):
    found = weights_of([example(0, 0, 1, 1, 0), example(1, 1, 0)], reduction)  # a first token is no target
    assert [pytest.approx(w) for w in wanted] == found


def test_an_example_that_truncation_left_nothing_of_gives_no_datum_and_counts_in_the_mean():
    found = weights_of([example(0, 0, 0), example(0, 1), example(1)], "example_mean")
    assert found == [[pytest.approx(1 / 3)]]
    assert supervised_data([example(0, 0)], "token_mean") == []


@quiet
@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=8), min_size=1, max_size=6))
def test_the_weights_of_a_batch_sum_to_1_where_every_example_trains(weights):
    examples = [example(*w, 1.0) for w in weights]
    before = copy.deepcopy(examples)
    for reduction in ("example_mean", "token_mean"):
        found = weights_of(examples, reduction)
        assert sum(map(sum, found)) == pytest.approx(1, abs=1e-5)
        assert [len(w) for w in found] == [len(e.tokens_T) - 1 for e in examples]
    assert all((a.weights_T == b.weights_T).all() for a, b in zip(before, examples, strict=True))
