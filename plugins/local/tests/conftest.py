"""A tiny random model in float32, and torch's threads as a test wants them."""

from contextlib import contextmanager

import pytest
import torch
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


@pytest.fixture(scope="session")
def hf(folder):
    """The same model, as transformers computes it, in float64."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return model.eval().requires_grad_(False)
