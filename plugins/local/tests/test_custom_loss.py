"""A loss that the caller computes from log-probabilities."""

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
    datum,
    gradients,
    logprobs_of,
    new_learner,
    relative_distance,
    tangled_batch,
    tokens,
)

from cookbook.errors import BackendError
from cookbook_plugin_local import training
from cookbook_plugin_local.llama import Llama
from cookbook_plugin_local.losses import find_loss


def x(d, name):
    return d.loss_fn_inputs[name].to_torch()


def cross_entropy(data, logprobs):
    loss = -sum((x(d, "weights") * lp).sum() for d, lp in zip(data, logprobs, strict=True))
    return loss, {"tokens:sum": float(sum(map(len, logprobs)))}


def importance_sampling(data, logprobs):
    ratios = [(lp - x(d, "logprobs")).exp() for d, lp in zip(data, logprobs, strict=True)]
    return -sum((r * x(d, "advantages")).sum() for d, r in zip(data, ratios, strict=True)), {}


CUSTOM = {"cross_entropy": cross_entropy, "importance_sampling": importance_sampling}


def counted(monkeypatch):
    """The forward passes from here on."""
    calls, hidden = [], Llama.hidden
    monkeypatch.setattr(Llama, "hidden", lambda *args, **kw: (calls.append(1), hidden(*args, **kw))[1])
    return calls


@pytest.mark.parametrize("budget", [1, 40, BUDGET])  # more trees than are kept, some, one
@pytest.mark.parametrize("name", CUSTOM)
def test_a_custom_loss_equals_the_one_of_that_name(model, name, budget):
    data, built_in, custom = (
        tangled_batch(name),
        new_learner(model, budget=budget),
        new_learner(model, budget=budget),
    )
    expected = built_in.forward_backward(data, find_loss(name))
    output = custom.forward_backward_custom(data, CUSTOM[name])
    assert output.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-5)
    assert relative_distance(gradients(custom), gradients(built_in)) < 1e-5
    everything = logprobs_of(new_learner(model, budget=budget).forward(data, find_loss(name)))
    for found, right in zip(logprobs_of(output), everything, strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)


def test_one_forward_pass_does(model, monkeypatch):
    learner, calls = new_learner(model), counted(monkeypatch)
    learner.forward_backward_custom(tangled_batch("cross_entropy"), cross_entropy)
    assert len(calls) == 1


def test_what_would_not_fit_is_computed_twice(model, monkeypatch):
    data = [
        datum(tokens(10, i), "cross_entropy", trained=slice(None), seed=i) for i in range(training._KEPT + 2)
    ]
    learner, calls = new_learner(model, budget=10), counted(monkeypatch)
    learner.forward_backward_custom(data, cross_entropy)
    assert len(calls) == training._KEPT + 2 + 2


def test_its_metrics_are_those_of_tinkers_client(model):
    data = tangled_batch("cross_entropy")
    output = new_learner(model).forward_backward_custom(data, cross_entropy)
    assert set(output.metrics) == {"tokens:sum", "loss:sum", "surrogate_loss:sum"}
    assert output.metrics["tokens:sum"] == sum(d.model_input.length for d in data)
    # cross-entropy is linear in the log-probabilities, so it is its own surrogate
    assert output.metrics["surrogate_loss:sum"] == pytest.approx(output.metrics["loss:sum"], rel=1e-5)


def test_it_sees_the_data_and_a_leaf_for_each_in_its_targets_shape(model):
    seen = []
    wide = tinker.Datum(
        tinker.ModelInput.from_ints(tokens(4, 0)), {"target_tokens": np.ones((4, 3), np.int64)}
    )
    narrow = tinker.Datum(tinker.ModelInput.from_ints(tokens(6, 1)), {"target_tokens": np.ones(6, np.int64)})

    def squares(data, logprobs):
        seen.append((data, [(lp.shape, lp.dtype, lp.requires_grad, lp.is_leaf) for lp in logprobs]))
        return sum(lp.square().sum() for lp in logprobs), {}

    output = new_learner(model).forward_backward_custom([wide, narrow], squares)
    (data, leaves), (a, b) = seen[0], logprobs_of(output)
    assert data == [wide, narrow]
    assert leaves == [(torch.Size(s), torch.float32, True, True) for s in ((4, 3), (6,))]
    assert output.metrics["loss:sum"] == pytest.approx(float((a**2).sum() + (b**2).sum()), rel=1e-6)


def test_a_pair_loss_moves_both_of_its_sequences(model):
    """Direct preference: one loss over two datums, against a finite difference along the gradient."""
    prompt = tokens(8, 0)
    data = [
        tinker.Datum(tinker.ModelInput.from_ints(ids), {"target_tokens": np.array(ids[1:] + [5])})
        for ids in (prompt + tokens(6, 1), prompt + tokens(5, 2))
    ]

    def preference(data, logprobs):
        return -torch.nn.functional.logsigmoid(0.1 * (logprobs[0].sum() - logprobs[1].sum())), {}

    learner = new_learner(model)
    before = learner.forward_backward_custom(data, preference).metrics["loss:sum"]
    grads, step = gradients(learner), 1e-3
    length = float(sum(g.square().sum() for g in grads.values())) ** 0.5
    with torch.no_grad():
        for name, parameter in learner.lora.parameters.items():
            parameter.sub_(step * grads[name] / length)
    after = learner.forward_backward_custom(data, preference).metrics["loss:sum"]
    assert (before - after) / step == pytest.approx(length, rel=0.02)


def test_a_datum_that_the_loss_leaves_out_has_no_gradient(model):
    data, learner = tangled_batch("cross_entropy")[:2], new_learner(model)
    learner.forward_backward_custom(data, lambda data, logprobs: (logprobs[0].sum(), {}))
    alone = new_learner(model)
    alone.forward_backward_custom(data[:1], lambda data, logprobs: (logprobs[0].sum(), {}))
    assert relative_distance(gradients(learner), gradients(alone)) < 1e-5


def test_what_it_raises_is_raised_and_adds_no_gradient(model):
    learner = new_learner(model)

    def failing(data, logprobs):
        raise ZeroDivisionError("a mistake of mine")

    with pytest.raises(ZeroDivisionError, match="a mistake of mine"):
        learner.forward_backward_custom(tangled_batch("cross_entropy"), failing)
    assert all(p.grad is None for p in learner.lora.parameters.values())
    learner.forward_backward(tangled_batch("cross_entropy"), CROSS_ENTROPY)  # and stands in nobody's way


def test_no_data_and_no_targets_are_one_line_each(model):
    learner = new_learner(model)
    with pytest.raises(BackendError, match="forward_backward_custom: no data"):
        learner.forward_backward_custom([], cross_entropy)
    with pytest.raises(
        BackendError, match=r"forward_backward_custom needs loss_fn_inputs\['target_tokens'\]"
    ):
        learner.forward_backward_custom([tinker.Datum(tinker.ModelInput.from_ints([1]), {})], cross_entropy)
