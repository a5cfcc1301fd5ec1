"""Losses and gradients over prefix trees, against one sequence at a time in float64; Adam."""

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
    dense,
    gradients,
    logprobs_of,
    new_learner,
    relative_distance,
    tangled_batch,
    tokens,
)

from cookbook.errors import BackendError
from cookbook_plugin_local.losses import LOSSES, find_loss
from cookbook_plugin_local.packing import pack


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("budget", [1, 30, BUDGET])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_trees_equals_its_sequences_one_by_one(model, hf, loss, budget):
    data = tangled_batch(loss)
    trees = len(pack([d.model_input.to_ints() for d in data], budget))
    assert (trees == 1) == (budget == BUDGET)
    assert_equal_one_by_one(model, hf, data, loss, budget)


def test_the_batch_meets_both_sides_of_the_clip_with_both_signs(model):
    """Or else the test above says little of ppo, cispo and gspo."""

    def side(ratio):
        return "below" if ratio < 0.8 else "above" if ratio > 1.2 else "between"

    tokens_met, datums_met, batch = set(), set(), tangled_batch("gspo")
    output = new_learner(model).forward(batch, find_loss("gspo"))
    for d, logp in zip(batch, logprobs_of(output), strict=True):
        x = {name: value.to_numpy() for name, value in d.loss_fn_inputs.items()}
        log_rho, mask = logp - x["logprobs"], x["sequence_ratio_mask"] != 0
        for rho, advantage in zip(np.exp(log_rho), x["advantages"], strict=True):
            if advantage:
                tokens_met.add((side(rho), advantage > 0))
                datums_met.add((side(np.exp(log_rho[mask].mean())), advantage > 0))
    every = {(where, sign) for where in ("below", "between", "above") for sign in (False, True)}
    assert tokens_met == datums_met == every


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_do_not_depend_on_the_token_budget(model, loss):
    found = []
    for budget in (1, 40, BUDGET):
        learner = new_learner(model, budget=budget)
        learner.forward_backward(tangled_batch(loss), find_loss(loss))
        found.append(gradients(learner))
    assert max(relative_distance(found[i], found[2]) for i in (0, 1)) < 1e-5


def test_the_loss_is_the_sum_over_tokens_by_hand(model):
    ids, learner = tokens(6, 0), new_learner(model)
    weighted = datum(ids, "cross_entropy", trained=slice(2, 5), seed=0)
    output = learner.forward_backward([weighted, weighted], CROSS_ENTROPY)
    weights, logprobs = weighted.loss_fn_inputs["weights"].to_numpy(), logprobs_of(output)[0]
    assert output.metrics["loss:sum"] == pytest.approx(-2 * float(weights @ logprobs), rel=1e-6)
    assert output.loss_fn_output_type == "logprobs"

    judged = datum(ids, "importance_sampling", trained=slice(2, 5), seed=0)
    output = learner.forward_backward([judged], find_loss("importance_sampling"))
    x = {k: v.to_numpy() for k, v in judged.loss_fn_inputs.items()}
    by_hand = sum(
        -np.exp(logprobs_of(output)[0][i] - x["logprobs"][i]) * x["advantages"][i] for i in range(2, 5)
    )
    assert output.metrics["loss:sum"] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "importance_sampling", "ppo", "cispo"])
def test_a_batch_with_nothing_trained_has_no_loss_and_no_gradient(model, name):
    learner, loss = new_learner(model), find_loss(name)
    output = learner.forward_backward([datum(tokens(5, 0), name, trained=slice(0, 0), seed=0)] * 2, loss)
    assert output.metrics == {"loss:sum": 0.0}
    assert all((logprobs == 0).all() and logprobs.shape == (5,) for logprobs in logprobs_of(output))
    assert all(p.grad is None for p in learner.lora.parameters.values())
    assert learner.forward_backward([], loss).metrics == {"loss:sum": 0.0}


@pytest.mark.parametrize(
    ("loss", "change", "line"),
    [
        (
            "cross_entropy",
            {"weights": None},
            r"cross_entropy needs loss_fn_inputs\['weights'\]; the datum has",
        ),
        ("importance_sampling", {"logprobs": None}, r"needs loss_fn_inputs\['logprobs'\]"),
        ("cross_entropy", {"target_tokens": None}, r"needs loss_fn_inputs\['target_tokens'\]"),
        (
            "cross_entropy",
            {"weights": np.ones(4, np.float32)},
            r"weights of shape \(4,\) for target_tokens of shape \(5,\)",
        ),
        (
            "cross_entropy",
            {"target_tokens": np.ones((5, 2), np.int64)},
            r"weights of shape \(5,\) for target_tokens of shape \(5, 2\)",
        ),
        (
            "cross_entropy",
            {"target_tokens": np.array([1, 2, 3, -100, 4])},
            "target_tokens from -100 to 4: the",
        ),
        ("cross_entropy", {"target_tokens": np.array([1, 2, 3, 4, 288])}, "the model has 0 to 287"),
        ("gspo", {"sequence_ratio_mask": None}, r"gspo needs loss_fn_inputs\['sequence_ratio_mask'\]"),
        (
            "dro",
            {"logprobs": np.ones(4, np.float32)},
            r"dro: logprobs of shape \(4,\) for target_tokens of shape \(5,\)",
        ),
    ],
)
def test_a_datum_that_does_not_fit_is_one_line_and_adds_no_gradient(model, loss, change, line):
    good = datum(tokens(5, 0), loss, trained=slice(None), seed=0)
    inputs = {k: v for k, v in {**good.loss_fn_inputs, **change}.items() if v is not None}
    learner = new_learner(model, budget=1)
    with pytest.raises(BackendError, match=line) as caught:
        learner.forward_backward([good, tinker.Datum(good.model_input, inputs)], find_loss(loss))
    assert "\n" not in str(caught.value)
    assert all(p.grad is None for p in learner.lora.parameters.values())


def test_two_calls_add_up_to_one(model):
    data, once, twice = tangled_batch("cross_entropy"), new_learner(model), new_learner(model)
    once.forward_backward(data, CROSS_ENTROPY)
    for part in (data[:4], data[4:]):
        twice.forward_backward(part, CROSS_ENTROPY)
    assert relative_distance(gradients(twice), gradients(once)) < 1e-5


def test_a_step_uses_its_gradient_up(model):
    learner = new_learner(model)
    learner.forward_backward(tangled_batch("cross_entropy"), CROSS_ENTROPY)
    assert learner.optim_step(tinker.AdamParams(learning_rate=1e-3)).metrics["grad_norm"] > 0
    before = learner.lora.snapshot().parameters
    assert learner.optim_step(tinker.AdamParams(learning_rate=1e-3)).metrics["grad_norm"] == 0
    assert all(torch.equal(before[k], p) for k, p in learner.lora.parameters.items())


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_three_steps_equal_adam_by_hand(model, clip):
    learner = new_learner(model)
    rates, b1, b2, eps, decay = [1e-2, 3e-3, 2e-2], 0.8, 0.9, 1e-8, 0.1
    w = {k: p.detach().double().numpy().copy() for k, p in learner.lora.parameters.items()}
    m, v = ({k: np.zeros_like(x) for k, x in w.items()} for _ in range(2))
    for t, rate in enumerate(rates, 1):
        learner.forward_backward(tangled_batch("cross_entropy")[t:], CROSS_ENTROPY)
        g = {k: x.double().numpy() for k, x in gradients(learner).items()}
        norm = np.sqrt(sum((x**2).sum() for x in g.values()))
        assert norm > 0.5
        params = tinker.AdamParams(
            learning_rate=rate, beta1=b1, beta2=b2, eps=eps, weight_decay=decay, grad_clip_norm=clip
        )
        assert learner.optim_step(params).metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
        for k, x in w.items():
            clipped = g[k] * (min(1.0, clip / norm) if clip else 1.0)
            m[k] = b1 * m[k] + (1 - b1) * clipped
            v[k] = b2 * v[k] + (1 - b2) * clipped**2
            x *= 1 - rate * decay
            x -= rate * (m[k] / (1 - b1**t)) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
            np.testing.assert_allclose(learner.lora.parameters[k].detach(), x, atol=2e-6)


# Without a gradient


@pytest.mark.parametrize("budget", [1, BUDGET])
@pytest.mark.parametrize("loss", LOSSES)
def test_forward_gives_the_same_loss_and_the_log_probability_of_every_target(model, hf, loss, budget):
    data, learner = tangled_batch(loss), new_learner(model, budget=budget)
    output = learner.forward(data, find_loss(loss))
    total, logprobs, _ = dense(hf, learner.lora, data, loss)
    assert output.metrics["loss:sum"] == pytest.approx(total.item(), rel=1e-4)
    assert output.loss_fn_output_type == "logprobs"
    for found, right in zip(logprobs_of(output), logprobs, strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)


def test_forward_leaves_the_gradient_as_it_is(model):
    learner, data = new_learner(model), tangled_batch("ppo")
    learner.forward(data, find_loss("ppo"))
    assert all(p.grad is None for p in learner.lora.parameters.values())
    learner.forward_backward(data, find_loss("ppo"))
    before = gradients(learner)
    learner.forward(data, find_loss("ppo"))
    assert all(torch.equal(before[name], found) for name, found in gradients(learner).items())
    learner.forward_backward(data, find_loss("ppo"))  # what forward computed stands in nobody's way


def test_forward_needs_a_target_that_the_model_has_everywhere(model):
    ids = tokens(5, 0)
    unweighted = datum(ids, "cross_entropy", trained=slice(2, 5), seed=0, targets=[-100, 1, 2, 3, 4])
    learner = new_learner(model)
    learner.forward_backward([unweighted], CROSS_ENTROPY)
    with pytest.raises(BackendError, match="target_tokens from -100 to 4"):
        learner.forward([unweighted], CROSS_ENTROPY)
