"""Tiny random models, and torch's threads as a test wants them."""

import json
import shutil
from contextlib import contextmanager

import pytest
import torch

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
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # so short that each kind of frequency occurs
}
# A tiny model of each family: transformers' name of it, and what differs from SIZES.
FAMILIES = {
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
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
