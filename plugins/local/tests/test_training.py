"""Losses and gradients over prefix trees, against one sequence at a time in float64; Adam; saved states."""

from pathlib import Path

import numpy as np
import pytest
import tinker
import torch
from transformers import LlamaForCausalLM

from cookbook.errors import BackendError
from cookbook_plugin_local.llama import Llama, Lora
from cookbook_plugin_local.packing import pack
from cookbook_plugin_local.tiny import make_tiny_llama
from cookbook_plugin_local.training import Learner

RANK, ALPHA, BUDGET = 4, 6.0, 10_000
LOSSES = ("cross_entropy", "importance_sampling")
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


def new_learner(model, *, budget=BUDGET, rank=RANK, alpha=ALPHA, seed=1):
    """A small LoRA whose B isn't 0."""
    lora, generator = Lora.fresh(model.shape, rank, alpha, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in lora.parameters.items():
            if name.endswith("B"):
                parameter.normal_(0, 0.05, generator=generator)
    return Learner(model, lora, budget)


def tokens(count, seed):
    return np.random.default_rng(seed).integers(0, 288, count).tolist()


def datum(ids, loss, *, trained, seed, targets=None):
    """Random weights, or old log-probabilities and advantages of both signs, on the `trained` positions."""
    random, n = np.random.default_rng(seed), len(ids)
    values = np.zeros(n, dtype=np.float32)
    values[trained] = random.normal(size=len(values[trained]))
    inputs = {"target_tokens": np.array(targets or ids[1:] + [5])}
    if loss == "cross_entropy":
        inputs["weights"] = values
    else:
        inputs |= {"advantages": values, "logprobs": random.normal(-5.5, 0.5, n).astype(np.float32)}
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
        if loss == "cross_entropy":
            total = total - (x["weights"] * chosen).sum()
        else:
            total = total - (torch.exp(chosen - x["logprobs"]) * x["advantages"]).sum()
    return total, logprobs, dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def gradients(learner):
    return {name: p.grad.clone() for name, p in learner.lora.parameters.items()}


def relative_distance(found, expected):
    """The worst over tensors of |found - expected| / |expected|."""
    return max(
        ((found[k].double() - e.double()).norm() / e.double().norm()).item() for k, e in expected.items()
    )


def logprobs_of(output):
    return [o["logprobs"].to_numpy() for o in output.loss_fn_outputs]


@pytest.mark.parametrize("budget", [1, 30, BUDGET])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_trees_equals_its_sequences_one_by_one(model, hf, loss, budget):
    data, learner = tangled_batch(loss), new_learner(model, budget=budget)
    trees = len(pack([d.model_input.to_ints() for d in data], budget))
    assert (trees == 1) == (budget == BUDGET)
    output = learner.forward_backward(data, loss)
    total, logprobs, expected = dense(hf, learner.lora, data, loss)
    assert output.metrics["loss:sum"] == pytest.approx(total.item(), rel=1e-4)
    decisive = "weights" if loss == "cross_entropy" else "advantages"
    assert len(output.loss_fn_outputs) == len(data)
    for d, found, right in zip(data, logprobs_of(output), logprobs, strict=True):
        trained = d.loss_fn_inputs[decisive].to_numpy() != 0
        np.testing.assert_allclose(found, np.where(trained, right, 0.0), atol=1e-5)
    assert relative_distance(gradients(learner), expected) < 1e-5


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_do_not_depend_on_the_token_budget(model, loss):
    found = []
    for budget in (1, 40, BUDGET):
        learner = new_learner(model, budget=budget)
        learner.forward_backward(tangled_batch(loss), loss)
        found.append(gradients(learner))
    assert max(relative_distance(found[i], found[2]) for i in (0, 1)) < 1e-5


def test_the_loss_is_the_sum_over_tokens_by_hand(model):
    ids, learner = tokens(6, 0), new_learner(model)
    weighted = datum(ids, "cross_entropy", trained=slice(2, 5), seed=0)
    output = learner.forward_backward([weighted, weighted], "cross_entropy")
    weights, logprobs = weighted.loss_fn_inputs["weights"].to_numpy(), logprobs_of(output)[0]
    assert output.metrics["loss:sum"] == pytest.approx(-2 * float(weights @ logprobs), rel=1e-6)
    assert output.loss_fn_output_type == "logprobs"

    judged = datum(ids, "importance_sampling", trained=slice(2, 5), seed=0)
    output = learner.forward_backward([judged], "importance_sampling")
    x = {k: v.to_numpy() for k, v in judged.loss_fn_inputs.items()}
    by_hand = sum(
        -np.exp(logprobs_of(output)[0][i] - x["logprobs"][i]) * x["advantages"][i] for i in range(2, 5)
    )
    assert output.metrics["loss:sum"] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_with_nothing_trained_has_no_loss_and_no_gradient(model, loss):
    learner = new_learner(model)
    output = learner.forward_backward([datum(tokens(5, 0), loss, trained=slice(0, 0), seed=0)] * 2, loss)
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
        ("cross_entropy", {"weights": np.ones(4, np.float32)}, r"weights of shape \(4,\) for 5 tokens"),
        ("cross_entropy", {"target_tokens": np.ones((5, 2), np.int64)}, r"shape \(5, 2\) for 5 tokens"),
        (
            "cross_entropy",
            {"target_tokens": np.array([1, 2, 3, -100, 4])},
            "target_tokens from -100 to 4: the",
        ),
        ("cross_entropy", {"target_tokens": np.array([1, 2, 3, 4, 288])}, "the model has 0 to 287"),
        ("ppo", {}, "no loss 'ppo'; it has cross_entropy, importance_sampling"),
    ],
)
def test_a_datum_that_does_not_fit_is_one_line_and_adds_no_gradient(model, loss, change, line):
    kind = loss if loss in LOSSES else "cross_entropy"
    good = datum(tokens(5, 0), kind, trained=slice(None), seed=0)
    inputs = {k: v for k, v in {**good.loss_fn_inputs, **change}.items() if v is not None}
    learner = new_learner(model, budget=1)
    with pytest.raises(BackendError, match=line) as caught:
        learner.forward_backward([good, tinker.Datum(good.model_input, inputs)], loss)
    assert "\n" not in str(caught.value)
    assert all(p.grad is None for p in learner.lora.parameters.values())


def test_two_calls_add_up_to_one(model):
    data, once, twice = tangled_batch("cross_entropy"), new_learner(model), new_learner(model)
    once.forward_backward(data, "cross_entropy")
    for part in (data[:4], data[4:]):
        twice.forward_backward(part, "cross_entropy")
    assert relative_distance(gradients(twice), gradients(once)) < 1e-5


def test_a_step_uses_its_gradient_up(model):
    learner = new_learner(model)
    learner.forward_backward(tangled_batch("cross_entropy"), "cross_entropy")
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
        learner.forward_backward(tangled_batch("cross_entropy")[t:], "cross_entropy")
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


def train(learner, steps):
    for step in steps:
        data = tangled_batch("importance_sampling")[step : step + 4]
        learner.forward_backward(data, "importance_sampling")
        learner.optim_step(tinker.AdamParams(learning_rate=1e-2, weight_decay=0.1))
    return learner


def same_weights(a, b):
    return all(torch.equal(p, b.lora.parameters[k]) for k, p in a.lora.parameters.items())


def test_a_saved_state_with_its_optimizer_goes_on_to_the_bit(model, tmp_path):
    first, second = train(new_learner(model), range(2)), train(new_learner(model, seed=9), range(1))
    first.save(tmp_path / "weights" / "a")
    assert not same_weights(first, second)
    second.load(tmp_path / "weights" / "a", optimizer=True)
    assert same_weights(first, second)
    assert same_weights(train(first, range(2, 4)), train(second, range(2, 4)))


def test_a_state_without_its_optimizer_starts_a_fresh_one(model, tmp_path):
    first, kept = train(new_learner(model), range(2)), train(new_learner(model, seed=9), range(1))
    first.save(tmp_path / "a")
    kept.load(tmp_path / "a", optimizer=False)
    fresh = Learner(model, Lora.fresh(model.shape, RANK, ALPHA, seed=0), BUDGET)
    fresh.load(tmp_path / "a", optimizer=False)
    assert same_weights(train(kept, range(2, 4)), train(fresh, range(2, 4)))
    assert not same_weights(kept, train(first, range(2, 4)))


def test_a_state_saved_before_any_step_loads(model, tmp_path):
    first, second = new_learner(model), train(new_learner(model, seed=9), range(1))
    first.save(tmp_path / "a")
    second.load(tmp_path / "a", optimizer=True)
    assert same_weights(train(first, range(2)), train(second, range(2)))


def test_loading_forgets_the_gradient(model, tmp_path):
    learner = new_learner(model)
    learner.save(tmp_path / "a")
    learner.forward_backward(tangled_batch("cross_entropy"), "cross_entropy")
    learner.load(tmp_path / "a", optimizer=True)
    assert learner.optim_step(tinker.AdamParams()).metrics["grad_norm"] == 0


@pytest.mark.parametrize("other", ["rank", "alpha", "layers", "hidden"])
def test_a_state_of_another_shape_is_refused_and_nothing_is_loaded(model, tmp_path, other):
    new_learner(model).save(tmp_path / "a")
    match other:
        case "rank":
            learner = new_learner(model, rank=2)
        case "alpha":
            learner = new_learner(model, alpha=2 * ALPHA)
        case _:
            sizes = {"layers": {"layers": 1}, "hidden": {"hidden": 32}}[other]
            learner = new_learner(Llama(make_tiny_llama(tmp_path / "other", **sizes), torch.float32))
    before = learner.lora.snapshot().parameters
    with pytest.raises(BackendError, match="give the same model, lora_rank and lora_alpha") as caught:
        learner.load(tmp_path / "a", optimizer=True)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[k], p) for k, p in learner.lora.parameters.items())


def test_an_interrupted_save_leaves_no_state_and_can_be_repeated(model, tmp_path, monkeypatch):
    def killed(self, target):
        raise KeyboardInterrupt

    learner, folder = train(new_learner(model), range(1)), tmp_path / "weights" / "a"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            learner.save(folder)
    assert not folder.exists()
    train(learner, range(1, 2)).save(folder)
    loaded = new_learner(model, seed=9)
    loaded.load(folder, optimizer=True)
    assert same_weights(learner, loaded)
    assert [f.name for f in (tmp_path / "weights").iterdir()] == ["a"]


def test_a_saved_state_is_not_overwritten_unless_asked(model, tmp_path):
    learner = new_learner(model)
    learner.save(tmp_path / "a")
    with pytest.raises(BackendError, match="is already there; save under another name"):
        train(learner, range(1)).save(tmp_path / "a")
    learner.load(tmp_path / "a", optimizer=True)
    assert same_weights(learner, new_learner(model))
    train(learner, range(1)).save(tmp_path / "a", overwrite=True)
    loaded = new_learner(model, seed=9)
    loaded.load(tmp_path / "a", optimizer=True)
    assert same_weights(loaded, learner)
