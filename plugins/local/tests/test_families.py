"""Llama 3's and a linear rope, Qwen2 and Qwen3: sampling and training against transformers, in fp32."""

import json

import numpy as np
import pytest
import tinker
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from cookbook_plugin_local import row_ops
from cookbook_plugin_local.client import ServiceClient
from cookbook_plugin_local.llama import Llama, Lora
from cookbook_plugin_local.losses import find_loss
from cookbook_plugin_local.machine import Options
from cookbook_plugin_local.shape import LlamaShape, Rope
from cookbook_plugin_local.training import Learner

FAMILIES = ["llama3", "linear", "qwen2", "qwen3"]
RANK, ALPHA = 4, 6.0
NAMES = {m: f"self_attn.{m}_proj" for m in "qkvo"} | {m: f"mlp.{m}_proj" for m in ("gate", "up", "down")}
GREEDY = tinker.SamplingParams(max_tokens=40, temperature=0, stop=[])


@pytest.fixture(params=FAMILIES)
def family(request, families):
    return families[request.param]


@pytest.fixture
def service(tmp_path):
    with ServiceClient(run_dir=tmp_path / "run", options=Options(torch.float32, 256, ALPHA)) as service:
        yield service


def tokens(count, seed=0):
    return np.random.default_rng(seed).integers(0, 288, count).tolist()


def reference(folder, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def logprobs(hf, ids):
    """Of each token but the first."""
    found = hf(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return found[torch.arange(len(ids) - 1), ids[1:]].numpy()


def test_the_logits_of_a_dense_pass_are_those_of_transformers(family, causal):
    model, ids = Llama(family, torch.float32), torch.tensor(tokens(150))
    factors = Lora.fresh(model.shape, RANK, ALPHA, seed=0).snapshot().factors(2, torch.float32)
    hidden = model.hidden(ids, torch.arange(150), factors, causal)
    torch.testing.assert_close(
        model.logits(hidden), reference(family)(ids[None]).logits[0], atol=1e-4, rtol=0
    )


def test_a_prompt_is_scored_as_transformers_does(family, service):
    ids = tokens(150)
    sampler = service.create_sampling_client(base_model=str(family)).result()
    found = sampler.compute_logprobs(tinker.ModelInput.from_ints(ids)).result()
    np.testing.assert_allclose(found[1:], logprobs(reference(family), ids), atol=1e-4)


def test_what_is_decoded_from_the_cache_is_what_transformers_generates(family, service):
    hf, ids = reference(family), tokens(30)
    sampler = service.create_sampling_client(base_model=str(family)).result()
    [sequence] = sampler.sample(tinker.ModelInput.from_ints(ids), 1, GREEDY).result().sequences
    settings = {"do_sample": False, "max_new_tokens": 40, "eos_token_id": None, "pad_token_id": 2}
    generated = hf.generate(torch.tensor([ids]), attention_mask=torch.ones(1, 30, dtype=int), **settings)
    assert sequence.tokens == generated[0, 30:].tolist()
    np.testing.assert_allclose(sequence.logprobs, logprobs(hf, ids + sequence.tokens)[29:], atol=1e-4)


def test_the_gradient_of_a_lora_is_that_of_transformers_with_merged_weights(family):
    model = Llama(family, torch.float32)
    lora, generator = Lora.fresh(model.shape, RANK, ALPHA, seed=1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in lora.parameters.items():
            if name.endswith("B"):
                parameter.normal_(0, 0.05, generator=generator)
    ids, weights = tokens(40), np.random.default_rng(1).normal(size=39).astype(np.float32)
    inputs = {"target_tokens": ids[1:], "weights": weights}
    datum = tinker.Datum(tinker.ModelInput.from_ints(ids[:-1]), inputs)
    Learner(model, lora, 256).forward_backward([datum], find_loss("cross_entropy"))
    wanted = merged_gradients(reference(family, torch.float64), lora, ids, weights)
    for name, parameter in lora.parameters.items():
        error = (parameter.grad - wanted[name]).norm() / wanted[name].norm()
        assert error < 1e-5, name


def merged_gradients(hf, lora, ids, weights):
    """Of the weighted sum of -log p, with W + alpha / rank B A in float64 for each W."""
    leaves = {name: p.detach().double().requires_grad_() for name, p in lora.parameters.items()}
    merged = {}
    for layer in range(2):
        for module, name in NAMES.items():
            update = leaves[f"{layer}.{module}.B"] @ leaves[f"{layer}.{module}.A"]
            name = f"model.layers.{layer}.{name}.weight"
            merged[name] = hf.get_parameter(name) + ALPHA / RANK * update
    ids = torch.tensor(ids)
    logits = torch.func.functional_call(hf, merged, (ids[None, :-1],)).logits[0]
    picked = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
    (-torch.from_numpy(weights).double() * picked).sum().backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_while_sampling_a_rows_bits_do_not_depend_on_its_company(family, dtype, torch_threads):
    model = Llama(family, dtype)
    factors = Lora.fresh(model.shape, RANK, ALPHA, seed=0).snapshot().factors(2, dtype)

    def run(part):
        ids, positions = torch.tensor(tokens(600))[part], torch.tensor(tokens(600, seed=1))[part]
        return model.hidden(ids, positions, factors, each_alone, row_ops)

    with torch_threads(2):
        whole = run(slice(None))
        for part in (slice(0, 1), slice(5, 12), slice(100, 370), slice(599, 600)):
            assert torch.equal(run(part), whole[part]), part


def each_alone(layer, q, k, v):
    """Every row as if it were a sequence of its own."""
    return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)


def test_rope_scaling_as_transformers_4_wrote_it_is_read_alike(families, tmp_path):
    config = json.loads((families["llama3"] / "config.json").read_text())
    rope = config.pop("rope_parameters")
    older = config | {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert LlamaShape.of(tmp_path).rope == LlamaShape.of(families["llama3"]).rope
    assert LlamaShape.of(tmp_path).rope == Rope(500000.0, "llama3", 8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_llama_3s_frequencies_are_those_of_transformers(families, head_dim):
    config = AutoConfig.from_pretrained(families["llama3"], head_dim=head_dim)
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    rope = LlamaShape.of(families["llama3"]).rope
    torch.testing.assert_close(rope.frequencies(head_dim), wanted, rtol=1e-5, atol=0)
    ratios = (Rope(rope.theta).frequencies(head_dim) / wanted).tolist()
    assert min(ratios) == pytest.approx(1)
    assert max(ratios) == pytest.approx(8)
    assert any(1.1 < ratio < 7.9 for ratio in ratios)  # so each band is tried


def test_a_sequence_ends_at_any_of_the_end_tokens_that_generation_config_lists(families):
    assert LlamaShape.of(families["qwen2"]).eos == (2, 0)
