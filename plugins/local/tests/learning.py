"""What tests of the trainer share: small learners, datums with random inputs, and an independent reference,
transformers' model in float64 with merged weights, one sequence at a time."""

import numpy as np
import pytest
import tinker
import torch

from cookbook_plugin_local.llama import Lora
from cookbook_plugin_local.losses import find_loss
from cookbook_plugin_local.training import Learner

RANK, ALPHA, BUDGET = 4, 6.0, 10_000
CROSS_ENTROPY = find_loss("cross_entropy")
# Where a log-probability comes back: where one of these isn't 0; none: everywhere.
NEEDED = {"cross_entropy": ["weights"], "gspo": ["advantages", "sequence_ratio_mask"], "dro": []}
NAMES = {m: f"self_attn.{m}_proj" for m in "qkvo"} | {m: f"mlp.{m}_proj" for m in ("gate", "up", "down")}


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
        targets = x["target_tokens"].long()
        chosen = logits.log_softmax(-1).gather(1, targets.reshape(len(targets), -1)).reshape(targets.shape)
        logprobs.append(chosen.detach().numpy())
        total = total + dense_loss(loss, chosen, x)
    return total, logprobs, dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def needed(loss, d):
    """The positions whose log-probability the loss needs."""
    names = NEEDED.get(loss, ["advantages"])
    x = [d.loss_fn_inputs[name].to_numpy() != 0 for name in names]
    return np.any(x, axis=0) if names else np.ones(d.loss_fn_inputs["target_tokens"].shape, bool)


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
