"""The embedded model in float32 against transformers, and its sampler against its trainer."""

import numpy as np
import pytest
import tinker
import torch
from transformers import AutoModelForCausalLM

from cookbook_plugin_local import ServiceClient
from cookbook_plugin_local.machine import Options
from cookbook_plugin_local.models import EMBEDDED, embedded_folder, find_model, missing_files

pytestmark = pytest.mark.embedded

TOKENS, NEAR = 12, 1e-4  # nats between the two likeliest tokens, below which either may win
SUBJECTS = [
    "the sea",
    "a bridge",
    "copper",
    "my uncle",
    "an old song",
    "rain",
    "chess",
    "the moon",
    "rice",
    "Rome",
]
OPENINGS = [
    "Once upon a time there was {}",
    "Q: What do you know about {}?\nA:",
    "A short poem about {}:\n\n",
    "def describe():\n    # {}\n    return",
    "{} is, was and will be",
]
TEXTS = [opening.format(subject) for opening in OPENINGS for subject in SUBJECTS]


@pytest.fixture(scope="module")
def service():
    if missing_files(embedded_folder()):
        pytest.skip(f"{EMBEDDED} is not on this machine: `cookbook local setup` brings it")
    with ServiceClient(options=Options(torch.float32, 2048, 32.0)) as service:
        yield service


@pytest.fixture(scope="module")
def client(service):
    """Its LoRA isn't 0: one step has been taken."""
    client = service.create_lora_training_client(EMBEDDED, rank=16, seed=0).result()
    ids = client.get_tokenizer()(TEXTS[0])["input_ids"]
    inputs = {"target_tokens": ids[1:], "weights": [1.0] * (len(ids) - 1)}
    datum = tinker.Datum(tinker.ModelInput.from_ints(ids[:-1]), inputs)
    client.forward_backward([datum], "cross_entropy").result()
    client.optim_step(tinker.AdamParams(learning_rate=1e-3)).result()
    return client


def test_greedy_answers_to_50_prompts_are_those_of_transformers(service):
    """Until the two likeliest tokens are nearer than NEAR, if they ever are; how often is counted."""
    sampler = service.create_sampling_client(base_model=EMBEDDED).result()
    hf = AutoModelForCausalLM.from_pretrained(find_model(EMBEDDED), dtype=torch.float32).eval()
    encode = sampler.get_tokenizer()
    prompts = [encode(text)["input_ids"] for text in TEXTS]
    params = tinker.SamplingParams(max_tokens=TOKENS, temperature=0, stop=[])
    asked = [sampler.sample(tinker.ModelInput.from_ints(ids), 1, params) for ids in prompts]
    settings = {"do_sample": False, "max_new_tokens": TOKENS, "pad_token_id": 2, "eos_token_id": None}
    ties = 0
    for ids, answer in zip(prompts, asked, strict=True):
        [sequence] = answer.result().sequences
        prompt = torch.tensor([ids])
        with torch.inference_mode():
            generated = hf.generate(
                prompt, attention_mask=torch.ones_like(prompt), output_logits=True,
                return_dict_in_generate=True, **settings,
            )  # fmt: skip
        best_two = torch.stack(generated.logits)[:, 0].topk(2).values
        near = (best_two[:, 0] - best_two[:, 1] < NEAR).nonzero()[:, 0].tolist()
        until = near[0] if near else TOKENS
        ties += bool(near)
        assert sequence.tokens[:until] == generated.sequences[0, len(ids) :][:until].tolist()
    print(f"{len(prompts)} prompts, {ties} with a tie")
    assert ties <= len(prompts) // 10


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_samplers_log_probabilities_are_the_trainers(client, temperature):
    """With an adapter that isn't 0, of answers after prompts of several lengths."""
    sampler = client.save_weights_and_get_sampling_client().result()
    encode = client.get_tokenizer()
    data, sampled_D = [], []
    for i, text in enumerate(TEXTS[::10]):
        ids = encode(text)["input_ids"]
        params = tinker.SamplingParams(max_tokens=16, temperature=temperature, stop=[], seed=i)
        for sequence in sampler.sample(tinker.ModelInput.from_ints(ids), 2, params).result().sequences:
            whole, before = ids + sequence.tokens, len(ids) - 1
            weights = [0.0] * before + [1.0] * len(sequence.tokens)
            inputs = {"target_tokens": whole[1:], "weights": weights}
            data.append(tinker.Datum(tinker.ModelInput.from_ints(whole[:-1]), inputs))
            sampled_D.append((before, sequence.logprobs))
    outputs = client.forward(data, "cross_entropy").result().loss_fn_outputs
    for (before, sampled), output in zip(sampled_D, outputs, strict=True):
        np.testing.assert_allclose(sampled, output["logprobs"].to_numpy()[before:], atol=1e-3)
