"""What sharing a prefix could get wrong, one at a time, and what checkpointing could."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tinker
import torch

sys.path.insert(0, str(Path(__file__).parent))
from learning import (
    BUDGET,
    CROSS_ENTROPY,
    assert_equal_one_by_one,
    datum,
    gradients,
    logprobs_of,
    new_learner,
    tangled_batch,
    tokens,
)

from cookbook_plugin_local import training
from cookbook_plugin_local.llama import Llama
from cookbook_plugin_local.losses import LOSSES, find_loss
from cookbook_plugin_local.packing import pack


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_last_shared_token_predicts_the_next_of_each(model, hf, loss):
    prompt = tokens(9, 0)
    data = [datum(prompt + tokens(4, i), loss, trained=slice(8, None), seed=i) for i in (1, 2, 3)]
    assert_equal_one_by_one(model, hf, data, loss)


def test_targets_need_not_be_the_next_tokens_of_the_input(model, hf):
    ids = tokens(12, 0)
    data = [
        datum(ids, "cross_entropy", trained=slice(None), seed=i, targets=tokens(12, 20 + i)) for i in (1, 2)
    ]
    assert_equal_one_by_one(model, hf, data, "cross_entropy")


@pytest.mark.parametrize("loss", LOSSES)
def test_duplicates_have_losses_and_clips_of_their_own(model, hf, loss):
    ids = tokens(12, 0)
    data = [datum(ids, loss, trained=slice(4, None), seed=seed) for seed in (1, 2, 3)]
    (tree,) = pack([d.model_input.to_ints() for d in data], BUDGET)
    assert len(tree.ids_N) == len(ids)
    assert_equal_one_by_one(model, hf, data, loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_token_may_be_an_action_here_and_an_observation_there(model, hf, loss):
    prompt, answer, more = tokens(5, 0), tokens(6, 1), tokens(5, 2)
    data = [
        datum(prompt + answer, loss, trained=slice(4, None), seed=1),
        datum(prompt + answer + more, loss, trained=slice(10, None), seed=2),
    ]
    assert_equal_one_by_one(model, hf, data, loss)


def test_a_position_is_a_tokens_depth_in_its_own_sequence(model):
    """Not its place in the tree: log-probabilities don't depend on what stands before or beside."""
    loss, ids = CROSS_ENTROPY, tokens(20, 0)
    chat = datum(ids, "cross_entropy", trained=slice(None), seed=1)
    others = [datum(ids[:7] + tokens(30, i), "cross_entropy", trained=slice(None), seed=i) for i in (2, 3)]
    others += [datum(tokens(25, 4), "cross_entropy", trained=slice(None), seed=4)]
    (alone,) = logprobs_of(new_learner(model).forward([chat], loss))
    last = logprobs_of(new_learner(model).forward([*others, chat], loss))[-1]
    np.testing.assert_allclose(last, alone, atol=1e-5)


@pytest.mark.parametrize("answers", [16, 150])  # under one mask, and part by part
def test_answers_longer_than_a_block_equal_their_sequences(model, hf, answers):
    prompt = tokens(140, 0)
    data = [datum(prompt + tokens(answers, i), "ppo", trained=slice(139, None), seed=i) for i in (1, 2, 3)]
    data += [
        datum(prompt[:70] + tokens(150, 4) + tokens(5, i), "ppo", trained=slice(100, None), seed=i)
        for i in (5, 6)
    ]
    assert_equal_one_by_one(model, hf, data, "ppo")


def test_the_same_run_twice_has_the_same_bits(model):
    found = []
    for _ in range(2):
        learner = new_learner(model, budget=40)
        for _ in range(2):
            learner.forward_backward(tangled_batch("ppo"), find_loss("ppo"))
            learner.optim_step(tinker.AdamParams(learning_rate=1e-2))
        found.append(learner.lora.parameters)
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_bfloat16_trees_are_as_near_to_float32_as_bfloat16_sequences_are(folder, model):
    """Each against float32: against one another they would differ by both errors."""
    data, right = tangled_batch("importance_sampling"), new_learner(model)
    right.forward_backward(data, find_loss("importance_sampling"))
    distances, low = [], Llama(folder, torch.bfloat16)
    for budget in (BUDGET, 1):  # one tree, and each by itself
        learner = new_learner(low, budget=budget)
        learner.forward_backward(data, find_loss("importance_sampling"))
        found, expected = (
            torch.cat([g.flatten() for g in gradients(each).values()]) for each in (learner, right)
        )
        distances.append(((found - expected).norm() / expected.norm()).item())
    assert max(distances) < 0.05
    assert distances[0] < 1.5 * distances[1]


def test_only_the_rows_that_the_loss_needs_have_logits(model, monkeypatch):
    counts, target_logprobs = [], training.target_logprobs
    monkeypatch.setattr(
        training,
        "target_logprobs",
        lambda hidden, *rest: (counts.append(len(hidden)), target_logprobs(hidden, *rest))[1],
    )
    ids, learner = tokens(12, 0), new_learner(model)
    data = [datum(ids, "ppo", trained=slice(8, None), seed=seed) for seed in (1, 2)]
    learner.forward_backward(data, find_loss("ppo"))
    learner.forward(data, find_loss("ppo"))
    assert counts == [4, 12]


@pytest.mark.parametrize("loss", ["cross_entropy", "ppo"])
def test_checkpointing_changes_no_bit(model, loss):
    found = []
    for checkpointing in (False, True):
        learner = new_learner(model, budget=40, checkpointing=checkpointing)
        output = learner.forward_backward(tangled_batch(loss), find_loss(loss))
        found.append((gradients(learner), output.metrics, logprobs_of(output)))
    assert all(torch.equal(found[0][0][name], g) for name, g in found[1][0].items())
    assert found[0][1] == found[1][1]
    assert all(np.array_equal(a, b) for a, b in zip(found[0][2], found[1][2], strict=True))


def test_checkpointing_keeps_one_tensor_a_layer(model):
    """Between forward and backward; without it, all that the gradient needs."""
    kept = []
    for checkpointing in (False, True):
        learner, sizes = new_learner(model, checkpointing=checkpointing), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, to=sizes: (to.append(x.numel()), x)[1], lambda x: x
        ):
            learner.forward_backward(
                [datum(tokens(64, 0), "ppo", trained=slice(60, None), seed=0)], find_loss("ppo")
            )
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2
