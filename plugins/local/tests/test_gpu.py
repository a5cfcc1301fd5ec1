"""What a GPU computes: its own paths through attention on the processor, always, and all of it on a GPU
where there is one."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tinker
import torch

sys.path.insert(0, str(Path(__file__).parent))
from learning import new_learner, tangled_batch

from cookbook_plugin_local import ServiceClient, attention, cached_attention
from cookbook_plugin_local.losses import find_loss
from cookbook_plugin_local.machine import Options

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
PROMPTS = [list(range(3, 3 + n)) for n in (1, 40, 200)]


def gradients(model, loss):
    learner = new_learner(model)
    output = learner.forward_backward(tangled_batch(loss), find_loss(loss))
    return output, {name: p.grad for name, p in learner.lora.parameters.items()}


@pytest.mark.parametrize("loss", ["cross_entropy", "ppo"])
def test_attention_without_the_processors_kernels_has_the_same_gradients(model, monkeypatch, loss):
    wanted, with_kernels = gradients(model, loss)
    monkeypatch.setattr(attention, "_has_kernel", lambda x: False)
    found, without = gradients(model, loss)
    assert found.metrics["loss:sum"] == pytest.approx(wanted.metrics["loss:sum"], rel=1e-5)
    for name, grad in with_kernels.items():
        assert (without[name] - grad).norm() <= 1e-5 * grad.norm(), name


def answers(folder, options):
    """Greedy answers, their log-probabilities and those of the prompts, before and after a step."""
    with ServiceClient(options=options) as service:
        client = service.create_lora_training_client(str(folder), rank=4, seed=0).result()
        said = []
        for _ in range(2):
            sampler = client.save_weights_and_get_sampling_client().result()
            params = tinker.SamplingParams(max_tokens=100, temperature=0, stop=[])
            asked = [
                sampler.sample(tinker.ModelInput.from_ints(p), 1, params, include_prompt_logprobs=len(p) > 1)
                for p in PROMPTS
            ]
            for future in asked:
                response = future.result()
                [sequence] = response.sequences
                said.append((sequence.tokens, [*(response.prompt_logprobs or [])[1:], *sequence.logprobs]))
            client.forward_backward(tangled_batch("cross_entropy"), "cross_entropy").result()
            client.optim_step(tinker.AdamParams(learning_rate=1e-2)).result()
        return said


def agree(found, wanted, atol):
    for (tokens, logprobs), (right, right_logprobs) in zip(found, wanted, strict=True):
        assert tokens == right
        np.testing.assert_allclose(logprobs, right_logprobs, atol=atol)


def test_one_block_of_all_keys_gives_the_same_answers(folder, monkeypatch):
    options = Options(torch.float32, 256, 8.0)
    wanted = answers(folder, options)
    monkeypatch.setattr(cached_attention, "_in_blocks", lambda x: False)
    agree(answers(folder, options), wanted, 1e-4)


@needs_gpu
def test_a_gpu_samples_and_trains_as_the_processor_does(folder):
    wanted = answers(folder, Options(torch.float32, 256, 8.0))
    agree(answers(folder, Options(torch.float32, 256, 8.0, device="cuda:0")), wanted, 1e-3)


@needs_gpu
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_gpu_in_bfloat16_is_near_the_processor_in_float32(folder, checkpointing):
    wanted = answers(folder, Options(torch.float32, 256, 8.0))
    options = Options(torch.bfloat16, 256, 8.0, checkpointing, device="cuda:0")
    prompts = PROMPTS * 2  # the answers themselves may part at any near tie
    for prompt, (_, logprobs), (_, right) in zip(prompts, answers(folder, options), wanted, strict=True):
        here = slice(0, len(prompt) - 1)
        np.testing.assert_allclose(logprobs[here], right[here], atol=0.1)
