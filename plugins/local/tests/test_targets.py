"""Several targets a token, and inputs that list only what isn't 0."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tinker
import torch

sys.path.insert(0, str(Path(__file__).parent))
from learning import (
    CROSS_ENTROPY,
    assert_equal_one_by_one,
    datum,
    gradients,
    logprobs_of,
    new_learner,
    tokens,
)

from cookbook.errors import BackendError
from cookbook_plugin_local.losses import LOSSES, find_loss


def wide(ids, loss, k, seed):
    """k targets after each token, some of them the same, and inputs of both signs; a third is left out."""
    random, shape = np.random.default_rng(seed), (len(ids), k)
    targets = random.integers(0, 288, shape)
    targets[::4, -1] = targets[::4, 0]
    values = (random.normal(size=shape) * (random.random(shape) > 1 / 3)).astype(np.float32)
    inputs = {"target_tokens": targets, "weights": values, "advantages": values}
    inputs["logprobs"] = random.normal(-6.6, 0.5, shape).astype(np.float32)
    inputs["sequence_ratio_mask"] = (random.random(shape) > 0.5).astype(np.float32)
    return tinker.Datum(
        tinker.ModelInput.from_ints(ids), {n: inputs[n] for n in ("target_tokens", *find_loss(loss).inputs)}
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_several_targets_a_token_equal_the_reference(model, hf, loss):
    prompt = tokens(7, 0)
    data = [
        wide(prompt + tokens(5, 1), loss, 3, seed=1),
        wide(prompt + tokens(6, 2), loss, 1, seed=2),
        datum(prompt + tokens(5, 1), loss, trained=slice(3, None), seed=3),  # one a token, on shared rows
    ]
    assert_equal_one_by_one(model, hf, data, loss)


def test_forward_gives_every_target_of_every_token(model):
    ids = tokens(9, 0)
    chat = wide(ids, "cross_entropy", 4, seed=1)
    targets = chat.loss_fn_inputs["target_tokens"].to_numpy()
    (found,) = logprobs_of(new_learner(model).forward([chat], CROSS_ENTROPY))
    assert found.shape == (9, 4) and found.dtype == np.float32
    for k in range(4):
        column = datum(ids, "cross_entropy", trained=slice(None), seed=0, targets=targets[:, k].tolist())
        (alone,) = logprobs_of(new_learner(model).forward([column], CROSS_ENTROPY))
        np.testing.assert_allclose(found[:, k], alone, atol=1e-6)


def test_sparse_inputs_are_0_where_nothing_is_listed(model):
    targets, weights = torch.zeros(10, 6, dtype=torch.int64), torch.zeros(10, 6)
    targets[3, 2], targets[7, 0], targets[7, 5] = 5, 17, 3
    weights[3, 2], weights[7, 0], weights[7, 5] = 0.5, -1.0, 2.0
    ids, found = tokens(10, 0), []
    for convert in (lambda x: x, lambda x: x.numpy()):  # tinker makes a torch matrix sparse, and no other
        inputs = {"target_tokens": convert(targets), "weights": convert(weights)}
        chat, learner = tinker.Datum(tinker.ModelInput.from_ints(ids), inputs), new_learner(model)
        output = learner.forward_backward([chat], CROSS_ENTROPY)
        found.append((chat, output, gradients(learner)))
    (sparse, a, grads), (dense, b, expected) = found
    assert sparse.loss_fn_inputs["weights"].sparse_crow_indices is not None
    assert dense.loss_fn_inputs["weights"].sparse_crow_indices is None
    assert a.metrics == b.metrics and np.array_equal(logprobs_of(a)[0], logprobs_of(b)[0])
    assert (logprobs_of(a)[0] != 0).sum() == 3
    assert all(torch.equal(grads[name], g) for name, g in expected.items())


def test_a_sparse_input_that_is_none_is_one_line(model):
    bad = tinker.TensorData(
        data=[1.0],
        dtype="float32",
        shape=[5, 2],
        sparse_crow_indices=[0, 1, 1, 1, 1, 1],
        sparse_col_indices=[7],
    )
    chat = tinker.Datum(
        tinker.ModelInput.from_ints(tokens(5, 0)),
        {"target_tokens": np.ones((5, 2), np.int64), "weights": bad},
    )
    with pytest.raises(BackendError, match="cross_entropy: weights is no sparse matrix") as caught:
        new_learner(model).forward_backward([chat], CROSS_ENTROPY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "targets", "line"),
    [
        ([1, 2, 288], np.ones(3, np.int64), "model_input from 1 to 288: the model has 0 to 287"),
        ([1, 2, 3], np.ones((3, 1, 1), np.int64), r"target_tokens of shape \(3, 1, 1\) for 3 tokens"),
        ([1, 2, 3], np.ones(4, np.int64), r"target_tokens of shape \(4,\) for 3 tokens"),
        ([1, 2, 3], np.ones(3, np.float32), "target_tokens must be int64, not float32"),
        ([1] * 2049, np.ones(2049, np.int64), "a datum of 2049 tokens; the model takes 2048"),
    ],
)
def test_tokens_that_the_model_does_not_have_are_one_line(model, ids, targets, line):
    inputs = {"target_tokens": targets, "weights": np.ones(targets.shape, np.float32)}
    with pytest.raises(BackendError, match=line):
        new_learner(model).forward([tinker.Datum(tinker.ModelInput.from_ints(ids), inputs)], CROSS_ENTROPY)


def test_a_picture_is_refused_in_one_line(model):
    chunk = tinker.types.ImageChunk(data=b"", format="png", expected_tokens=1)
    picture = tinker.ModelInput(chunks=[chunk])
    with pytest.raises(BackendError, match="trains on text alone"):
        new_learner(model).forward([tinker.Datum(picture, {})], CROSS_ENTROPY)


def test_clips_of_a_tokens_own_stand_beside_those_of_the_config(model):
    """A datum without them takes the config's."""
    plain = datum(tokens(8, 0), "ppo", trained=slice(2, None), seed=1)
    own = tinker.Datum(
        plain.model_input, {**plain.loss_fn_inputs, "clip_high_threshold": np.full(8, 1.05, np.float32)}
    )

    def total(data, **config):
        return new_learner(model).forward_backward(data, find_loss("ppo", config)).metrics["loss:sum"]

    tight = total([plain], clip_high_threshold=1.05)
    assert tight != total([plain])
    assert total([own]) == tight
    assert total([own, plain]) == pytest.approx(tight + total([plain]), rel=1e-6)
