"""Tiny random models, and torch's threads as a test wants them."""

import json
import shutil
from contextlib import contextmanager

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import LlamaForCausalLM

from cookbook_plugin_local.llama import Llama
from cookbook_plugin_local.tiny import make_tiny_llama


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def model(folder):
    return Llama(folder, torch.float32)


@contextmanager
def _threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def torch_threads():
    """`with torch_threads(2): ...`"""
    return _threads


SIZES = {
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
LLAMA3 = {  # as Llama 3.1 has it: with 8 frequencies, some stay, one lies between, one is divided
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# A tiny model of each family: transformers' name of it, and what differs from SIZES.
FAMILIES = {
    "llama3": (
        "Llama",
        {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "max_position_embeddings": 16384},
    ),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
}


def _save_family(folder, tokens_from, name, changes):
    """Random weights: biases and norms too, which transformers starts at 0 and 1."""
    import transformers

    config = getattr(transformers, f"{name}Config")(**SIZES | changes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(0, 0.5)
            elif "norm" in parameter_name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokens_from / file, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return folder


@pytest.fixture(scope="session")
def families(tmp_path_factory, folder):
    """{name: folder} of FAMILIES, as transformers saves them; their tokenizer is the tiny model's."""
    place = tmp_path_factory.mktemp("families")
    return {name: _save_family(place / name, folder, *family) for name, family in FAMILIES.items()}


@pytest.fixture(scope="session")
def write_gguf():
    """`write_gguf(path, folder)` writes the model in `folder` as llama.cpp's converter would."""
    return _write_gguf


def _write_gguf(path, folder, *, architecture=None, merges=("a b",), pre="smollm", kind="Q8_0", fields=()):
    """Projections in the quantized `kind`, the rest in fp32. merges: beside the tokenizer's own, a token for
    each. fields: name and value of more metadata, or of other."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, architecture or config["model_type"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    if config["model_type"] == "qwen3":
        writer.add_key_length(config["head_dim"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _add_tokenizer(writer, folder, config, merges, pre)
    _add_rope(writer, folder, config["rope_parameters"])
    for name, weight in load_file(folder / "model.safetensors").items():
        _add_weight(writer, config, name, weight, gguf.GGMLQuantizationType[kind])
    for name, value in fields:
        writer.kv_data[0].pop(name, None)
        writer.add_uint32(name, value) if isinstance(value, int) else writer.add_string(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, folder, config, merges, pre):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = {token["content"]: token["special"] for token in tokenizer["added_tokens"]}
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]} | tokenizer["model"]["vocab"]
    tokens = [*sorted(ids, key=ids.__getitem__), *(merge.replace(" ", "") for merge in merges)]
    padding = [f"[PAD{place}]" for place in range(len(tokens), config["vocab_size"])]
    kinds = {None: gguf.TokenType.NORMAL, True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + padding)
    writer.add_token_types(
        [kinds[added.get(token)] for token in tokens] + [gguf.TokenType.UNUSED] * len(padding)
    )
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]] + [*merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    if unknown := tokenizer["model"]["unk_token"]:
        writer.add_unk_token_id(ids[unknown])
    writer.add_chat_template("the template")


def _add_rope(writer, folder, rope):
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _transformers_rope_divisors(folder).numpy())


def _transformers_rope_divisors(folder):
    """What transformers divides the frequencies of a plain rope by."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.from_pretrained(folder)
    rope, dim = config.rope_parameters, config.hidden_size // config.num_attention_heads
    scaled, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    return rope["rope_theta"] ** -(torch.arange(0, dim, 2) / dim) / scaled


def _add_weight(writer, config, name, weight, quantized):
    """q and k as in LlamaModel.permute of llama.cpp; its converter of Qwen leaves them as they are."""
    architecture = getattr(gguf.MODEL_ARCH, config["model_type"].upper())
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    kind, suffix = name.split(".")[-2:]
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    if kind in heads and config["model_type"] == "llama":
        halves = weight.reshape(heads[kind], 2, -1, weight.shape[1])
        weight = halves.swapaxes(1, 2).reshape(weight.shape)
    projection = kind.endswith("_proj") and suffix == "weight"
    kept = quantized if projection else gguf.GGMLQuantizationType.F32
    data = gguf.quantize(np.ascontiguousarray(weight), kept)
    writer.add_tensor(names.get_name(name.removesuffix(f".{suffix}")) + f".{suffix}", data, raw_dtype=kept)


@pytest.fixture(scope="session")
def causal():
    """The attention of rows that are one sequence, as torch computes it: for `Llama.hidden`."""

    def attend(layer, q, k, v):
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out[0].transpose(0, 1)

    return attend


@pytest.fixture(scope="session")
def hf(folder):
    """The same model, as transformers computes it, in float64."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return model.eval().requires_grad_(False)
