"""The forward pass and its LoRA, against transformers."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from cookbook.errors import BackendError
from cookbook_plugin_local import ops, row_ops
from cookbook_plugin_local.llama import MODULES, Llama, LlamaShape, Lora

RANK, ALPHA = 4, 6.0
NAMES = {m: f"self_attn.{m}_proj" for m in "qkvo"} | {m: f"mlp.{m}_proj" for m in ("gate", "up", "down")}


def reference(folder):
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tokens(count, seed=0):
    return torch.randint(0, 288, (count,), generator=torch.Generator().manual_seed(seed))


def causal(layer, q, k, v):
    """Attention of one sequence, spelled out."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
    later = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(later, float("-inf")).softmax(-1), v)


def each_alone(layer, q, k, v):
    """Every row as if it were a sequence of its own."""
    return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)


@torch.no_grad()
def run(model, ids, lora=None, attend=causal, arithmetic=ops, positions=None):
    """Logits. arithmetic: of training, or with `row_ops` of sampling."""
    lora = lora or Lora.fresh(model.shape, RANK, ALPHA, seed=0)
    positions = torch.arange(len(ids)) if positions is None else positions
    factors = lora.factors(model.shape.layers, model.dtype)
    hidden = model.hidden(ids, positions, factors, attend, arithmetic)
    return model.logits(hidden, row_ops.product if arithmetic is row_ops else F.linear)


def trained(shape, modules=MODULES):
    """A LoRA whose B isn't 0 on some modules."""
    lora, generator = Lora.fresh(shape, RANK, ALPHA, seed=1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in lora.parameters.items():
            if name.split(".")[1] in modules and name.endswith("B"):
                parameter.normal_(0, 0.1, generator=generator)
    return lora


@pytest.mark.parametrize("length", [1, 2, 7, 33, 200])
@torch.no_grad()
def test_logits_are_those_of_transformers(folder, model, length):
    ids = tokens(length)
    torch.testing.assert_close(run(model, ids), reference(folder)(ids[None]).logits[0], atol=1e-4, rtol=0)


def test_a_fresh_lora_changes_no_bit(model, monkeypatch):
    ids = tokens(50)
    with_lora = run(model, ids, Lora.fresh(model.shape, 16, 32.0, seed=5))
    monkeypatch.setattr(ops, "linear", lambda x, weight, a, b: F.linear(x, weight))
    assert torch.equal(run(model, ids), with_lora)


@pytest.mark.parametrize("module", MODULES)
@torch.no_grad()
def test_a_lora_equals_weights_merged_by_hand(folder, model, module):
    lora, hf, ids = trained(model.shape, {module}), reference(folder), tokens(40)
    plain = hf(ids[None]).logits[0]
    for i in range(model.shape.layers):
        a, b = lora.parameters[f"{i}.{module}.A"], lora.parameters[f"{i}.{module}.B"]
        hf.get_parameter(f"model.layers.{i}.{NAMES[module]}.weight").add_(ALPHA / RANK * b @ a)
    merged = hf(ids[None]).logits[0]
    assert (merged - plain).abs().max() > 1e-2  # or else the comparison says nothing
    torch.testing.assert_close(run(model, ids, lora), merged, atol=1e-4, rtol=0)


def test_a_lora_lets_gradients_through_to_every_factor(model):
    lora = trained(model.shape)
    factors = lora.factors(model.shape.layers, torch.float32)
    model.hidden(tokens(9), torch.arange(9), factors, causal).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lora.parameters.values())


def test_a_snapshot_stays_as_it_was(model):
    lora = trained(model.shape)
    snapshot, ids = lora.snapshot(), tokens(9)
    before = run(model, ids, snapshot)
    with torch.no_grad():
        for parameter in lora.parameters.values():
            parameter.add_(1)
    assert torch.equal(run(model, ids, snapshot), before)


@pytest.mark.parametrize("length", [1, 16, 150])
def test_sampling_rounds_otherwise_than_training_and_no_more(model, length):
    ids, lora = tokens(length), trained(model.shape)
    found = run(model, ids, lora, arithmetic=row_ops)
    torch.testing.assert_close(found, run(model, ids, lora), atol=1e-5, rtol=0)


@pytest.mark.parametrize("threads", [1, 2, 3])  # 3: pieces of a tensor that end within a row
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_while_sampling_a_rows_bits_do_not_depend_on_its_company(folder, dtype, threads, torch_threads):
    model = Llama(folder, dtype)
    lora, ids, positions = trained(model.shape), tokens(1600), tokens(1600, seed=1)
    with torch_threads(threads):
        whole = run(model, ids, lora, each_alone, row_ops, positions)
        for start, stop in [(0, 1), (1, 3), (5, 12), (100, 229), (400, 1100), (1599, 1600)]:
            part = slice(start, stop)
            alone = run(model, ids[part], lora, each_alone, row_ops, positions[part])
            assert torch.equal(alone, whole[part]), (start, stop)


def edited(folder, target, **changes):
    """A copy of the folder with another config."""
    target.mkdir()
    config = json.loads((folder / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return target


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gemma3_text"}, "its model_type is 'gemma3_text'; the families are llama, qwen2"),
        ({"model_type": "qwen3_moe"}, "its model_type is 'qwen3_moe'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0}}, "its rope is of kind 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "its rope is of kind 'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "it rotates a part of each head"),
        ({"attention_bias": True}, "it has biases"),
        ({"mlp_bias": True}, "it has biases"),
        ({"use_sliding_window": True, "sliding_window": 64}, "it attends within a sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "it attends within a sliding window"),
        ({"hidden_act": "gelu"}, "its activation is 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantized"),
    ],
)
def test_a_model_that_would_be_computed_wrongly_is_refused_in_one_line(folder, tmp_path, changes, reason):
    with pytest.raises(BackendError, match=f"local/torch can't run this model: {reason}") as caught:
        Llama(edited(folder, tmp_path / "other", **changes), torch.float32)
    assert "\n" not in str(caught.value)


def test_a_sliding_window_that_is_off_is_no_hindrance(folder, tmp_path):
    off = edited(folder, tmp_path / "off", use_sliding_window=False, sliding_window=64)
    assert LlamaShape.of(off) == LlamaShape.of(folder)


@pytest.mark.parametrize("lacking", ["num_hidden_layers", "factor"])
def test_a_config_that_lacks_a_size_is_refused_by_its_name(folder, tmp_path, lacking):
    changed = edited(folder, tmp_path / "other", rope_scaling={"rope_type": "linear", "factor": 2.0})
    text = (changed / "config.json").read_text().replace(f'"{lacking}"', '"other"')
    (changed / "config.json").write_text(text)
    with pytest.raises(BackendError, match=f"config.json lacks {lacking}"):
        LlamaShape.of(changed)


@pytest.mark.parametrize(("eos", "found"), [(7, (7,)), (0, (0,)), ([2, 5], (2, 5)), (None, ())])
def test_the_end_tokens_may_be_one_or_several_or_none(folder, tmp_path, eos, found):
    assert LlamaShape.of(edited(folder, tmp_path / "eos", eos_token_id=eos)).eos == found


@pytest.mark.parametrize(("listed", "found"), [({"eos_token_id": [2, 0]}, (2, 0)), ({}, (7,))])
def test_the_end_tokens_of_generation_config_come_first(folder, tmp_path, listed, found):
    changed = edited(folder, tmp_path / "eos", eos_token_id=7)
    (changed / "generation_config.json").write_text(json.dumps(listed))
    assert LlamaShape.of(changed).eos == found


@pytest.mark.parametrize("where", ["rope_parameters", "rope_theta"])
@torch.no_grad()
def test_the_ropes_base_is_read_from_either_place(folder, tmp_path, where):
    theta = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_theta": 500.0}[where]
    changed = edited(folder, tmp_path / "rope", **{"rope_parameters": None, where: theta})
    assert LlamaShape.of(changed).rope.theta == 500.0
    hf_folder = edited(folder, tmp_path / "hf", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    logits, ids = run(Llama(changed, torch.float32), tokens(30)), tokens(30)
    torch.testing.assert_close(logits, reference(hf_folder)(ids[None]).logits[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_an_untied_output_layer_is_used(folder, tmp_path):
    untied, ids = edited(folder, tmp_path / "untied", tie_word_embeddings=False), tokens(20)
    weights = load_file(folder / "model.safetensors")
    head = torch.randn(weights["model.embed_tokens.weight"].shape, generator=torch.Generator().manual_seed(3))
    save_file(weights | {"lm_head.weight": head}, untied / "model.safetensors", {"format": "pt"})
    logits = run(Llama(untied, torch.float32), ids)
    torch.testing.assert_close(logits, reference(untied)(ids[None]).logits[0], atol=1e-4, rtol=1e-5)


def test_weights_may_lie_in_several_files_and_a_missing_one_is_named(folder, tmp_path):
    parts = edited(folder, tmp_path / "parts")
    weights = load_file(parts / "model.safetensors")
    last = {"model.norm.weight": weights.pop("model.norm.weight")}
    save_file(weights, parts / "model.safetensors")
    with pytest.raises(BackendError, match=r"no tensor 'model\.norm\.weight'"):
        Llama(parts, torch.float32)
    save_file(last, parts / "model-2.safetensors")
    ids = tokens(10)
    assert torch.equal(run(Llama(parts, torch.float32), ids), run(Llama(folder, torch.float32), ids))
