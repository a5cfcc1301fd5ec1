"""Losses and gradients over prefix trees, against one sequence at a time in float64; Adam."""

import numpy as np
import pytest
import tinker
import torch
from transformers import LlamaForCausalLM

from cookbook.errors import BackendError
from cookbook_plugin_local import training
from cookbook_plugin_local.llama import Llama, Lora
from cookbook_plugin_local.losses import LOSSES, find_loss
from cookbook_plugin_local.packing import pack
from cookbook_plugin_local.training import Learner

RANK, ALPHA, BUDGET = 4, 6.0, 10_000
CROSS_ENTROPY = find_loss("cross_entropy")
# Where a log-probability comes back: where one of these isn't 0; none: everywhere.
NEEDED = {"cross_entropy": ["weights"], "gspo": ["advantages", "sequence_ratio_mask"], "dro": []}
NAMES = {m: f"self_attn.{m}_proj" for m in "qkvo"} | {m: f"mlp.{m}_proj" for m in ("gate", "up", "down")}


@pytest.fixture(scope="module")
def hf(folder):
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return model.eval().requires_grad_(False)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_learner(model, *, budget=BUDGET, seed=1, checkpointing=False):
    """A small LoRA whose B isn't 0."""
    lora, generator = Lora.fresh(model.shape, RANK, ALPHA, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in lora.parameters.items():
            if name.endswith("B"):
                parameter.normal_(0, 0.05, generator=generator)
    return Learner(model, lora, budget, checkpointing=checkpointing)


def tokens(count, seed):
    return np.random.default_rng(seed).integers(0, 288, count).tolist()


def datum(ids, loss, *, trained, seed, targets=None):
    """Random weights, or old log-probabilities and advantages of both signs, on the `trained` positions;
    gspo's mask leaves some of them out and holds some others."""
    random, n = np.random.default_rng(seed), len(ids)
    values = np.zeros(n, dtype=np.float32)
    values[trained] = random.normal(size=len(values[trained]))
    inputs = {"target_tokens": np.array(targets or ids[1:] + [5])}
    if loss == "cross_entropy":
        inputs["weights"] = values
    else:
        inputs |= {"advantages": values, "logprobs": random.normal(-6.6, 0.5, n).astype(np.float32)}
    if loss == "gspo":
        inputs["sequence_ratio_mask"] = ((values != 0) ^ (np.arange(n) % 4 == 1)).astype(np.float32)
    return tinker.Datum(model_input=tinker.ModelInput.from_ints(ids), loss_fn_inputs=inputs)


def tangled_batch(loss):
    prompt, more, answer, other = tokens(10, 0), tokens(6, 1), tokens(8, 2), tokens(7, 3)
    return [
        datum(prompt + answer, loss, trained=slice(9, None), seed=10),
        datum(prompt + answer, loss, trained=slice(9, None), seed=11),  # a duplicate, other advantages
        datum(prompt + more + other, loss, trained=slice(15, None), seed=12),
        # the answer's beginning is an action above and an observation here
        datum(prompt + answer[:4] + other, loss, trained=slice(14, None), seed=13),
        datum(prompt, loss, trained=slice(2, 8), seed=14),  # an action here, an observation elsewhere
        datum(prompt + answer, loss, trained=slice(None, None, 3), seed=15, targets=tokens(18, 4)),
        datum(other, loss, trained=slice(None), seed=16),  # a root of its own
        datum(prompt + more, loss, trained=slice(0, 0), seed=17),  # nothing is trained
        datum(prompt[:1], loss, trained=slice(None), seed=18, targets=[7]),
        datum(prompt[:1], loss, trained=slice(None), seed=19, targets=[8]),  # two next tokens of one row
    ]


def dense_loss(name, logp, x):
    """The summed loss of one sequence, as the papers write it."""
    if name == "cross_entropy":
        return -(x["weights"] * logp).sum()
    log_rho, advantages = logp - x["logprobs"], x["advantages"]
    rho = log_rho.exp()
    match name:
        case "importance_sampling":
            return -(rho * advantages).sum()
        case "ppo":
            return -torch.minimum(rho * advantages, rho.clip(0.8, 1.2) * advantages).sum()
        case "cispo":
            return -(rho.clip(0.8, 1.2).detach() * advantages * logp).sum()
        case "dro":
            return -(advantages * logp - 0.05 / 2 * log_rho**2).sum()
    s = log_rho[x["sequence_ratio_mask"] != 0].mean().exp().detach() if advantages.any() else 1.0
    s = s * logp.exp() / logp.exp().detach()
    return -torch.minimum(s * advantages, s.clip(0.8, 1.2) * advantages).sum()


def dense(hf, lora, data, loss):
    """(loss, log-probabilities per datum, gradients): W + alpha / rank B A, each sequence by itself."""
    leaves = {k: p.detach().double().requires_grad_() for k, p in lora.parameters.items()}
    merged = {}
    for key in {k.rsplit(".", 1)[0] for k in leaves}:
        layer, module = key.split(".")
        name = f"model.layers.{layer}.{NAMES[module]}.weight"
        merged[name] = hf.get_parameter(name) + ALPHA / RANK * leaves[f"{key}.B"] @ leaves[f"{key}.A"]
    total, logprobs = torch.zeros((), dtype=torch.float64), []
    for d in data:
        ids = torch.tensor([d.model_input.to_ints()])
        x = {name: value.to_torch().double() for name, value in d.loss_fn_inputs.items()}
        logits = torch.func.functional_call(hf, merged, (ids,), {"use_cache": False}).logits[0]
        chosen = logits.log_softmax(-1).gather(1, x["target_tokens"].long()[:, None])[:, 0]
        logprobs.append(chosen.detach().numpy())
        total = total + dense_loss(loss, chosen, x)
    return total, logprobs, dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def needed(loss, d):
    """The positions whose log-probability the loss needs."""
    names = NEEDED.get(loss, ["advantages"])
    x = [d.loss_fn_inputs[name].to_numpy() != 0 for name in names]
    return np.any(x, axis=0) if names else np.ones(d.model_input.length, bool)


def gradients(learner):
    return {name: p.grad.clone() for name, p in learner.lora.parameters.items()}


def relative_distance(found, expected):
    """The worst over tensors of |found - expected| / |expected|."""
    return max(
        ((found[k].double() - e.double()).norm() / e.double().norm()).item() for k, e in expected.items()
    )


def logprobs_of(output):
    return [o["logprobs"].to_numpy() for o in output.loss_fn_outputs]


def assert_equal_one_by_one(model, hf, data, loss, budget=BUDGET):
    """Loss, log-probabilities where they are needed and gradients are those of each sequence by itself."""
    learner = new_learner(model, budget=budget)
    output = learner.forward_backward(data, find_loss(loss))
    total, logprobs, expected = dense(hf, learner.lora, data, loss)
    assert output.metrics["loss:sum"] == pytest.approx(total.item(), rel=1e-4)
    assert len(output.loss_fn_outputs) == len(data)
    for d, found, right in zip(data, logprobs_of(output), logprobs, strict=True):
        np.testing.assert_allclose(found, np.where(needed(loss, d), right, 0.0), atol=1e-5)
    assert relative_distance(gradients(learner), expected) < 1e-5


@pytest.mark.parametrize("budget", [1, 30, BUDGET])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_trees_equals_its_sequences_one_by_one(model, hf, loss, budget):
    data = tangled_batch(loss)
    trees = len(pack([d.model_input.to_ints() for d in data], budget))
    assert (trees == 1) == (budget == BUDGET)
    assert_equal_one_by_one(model, hf, data, loss, budget)


# What sharing a prefix could get wrong, one at a time


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
    data += [datum(prompt[:70] + tokens(150, 4) + tokens(5, i), "ppo", trained=slice(100, None), seed=i) for i in (5, 6)]
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
        training, "target_logprobs", lambda hidden, *rest: (counts.append(len(hidden)), target_logprobs(hidden, *rest))[1]
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
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=sizes: (to.append(x.numel()), x)[1], lambda x: x):
            learner.forward_backward([datum(tokens(64, 0), "ppo", trained=slice(60, None), seed=0)], find_loss("ppo"))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


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
        ("cross_entropy", {"weights": np.ones(4, np.float32)}, r"weights of shape \(4,\) for target_tokens of shape \(5,\)"),
        ("cross_entropy", {"target_tokens": np.ones((5, 2), np.int64)}, r"weights of shape \(5,\) for target_tokens of shape \(5, 2\)"),
        (
            "cross_entropy",
            {"target_tokens": np.array([1, 2, 3, -100, 4])},
            "target_tokens from -100 to 4: the",
        ),
        ("cross_entropy", {"target_tokens": np.array([1, 2, 3, 4, 288])}, "the model has 0 to 287"),
        ("gspo", {"sequence_ratio_mask": None}, r"gspo needs loss_fn_inputs\['sequence_ratio_mask'\]"),
        ("dro", {"logprobs": np.ones(4, np.float32)}, r"dro: logprobs of shape \(4,\) for target_tokens of shape \(5,\)"),
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
