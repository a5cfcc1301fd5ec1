"""Reinforcement learning by hand: no registry, no recipe, nothing of cookbook but a renderer.

    cookbook local setup && python first_loop.py                     # SmolLM2-135M on this machine
    TINKER_API_KEY=... python first_loop.py Qwen/Qwen3-8B            # on Tinker

GRPO without the division by the std (Liu et al. 2025): sample a group of replies to each question, reward
them, and make those likelier that did better than their group's mean.
"""

import os
import random
import sys

import numpy as np
import tinker

from cookbook.rendering import load_tokenizer
from cookbook.rendering.chatml import ChatML

STEPS, QUESTIONS, GROUP, MAX_TOKENS, LR = 12, 8, 8, 6, 5e-4


def connect(model):
    """A service client of Tinker, or one like it in this process; and the renderer of the model's tokens."""
    if os.environ.get("TINKER_API_KEY"):
        return tinker.ServiceClient(), ChatML(load_tokenizer(model))
    from cookbook_plugin_local import ServiceClient
    from cookbook_plugin_local.models import find_model

    return ServiceClient(), ChatML(load_tokenizer(find_model(model)))


def question(rng):
    """A sum, after one that is worked out; and its answer."""
    a, b = rng.randrange(1, 10), rng.randrange(1, 10)
    texts, roles = ["3 + 8", "= 11", f"{a} + {b}"], ["user", "assistant", "user"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    return messages, f"= {a + b}"


def datum(prompt, sequence, advantage):
    """Next-token targets. The prompt's tokens have no advantage, and so no gradient."""
    tokens, before = prompt + sequence.tokens, len(prompt) - 1
    inputs = {
        "target_tokens": np.array(tokens[1:]),
        "logprobs": np.array([0.0] * before + sequence.logprobs, dtype=np.float32),
        "advantages": np.array([0.0] * before + [advantage] * len(sequence.tokens), dtype=np.float32),
    }
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={name: tinker.TensorData.from_numpy(values) for name, values in inputs.items()},
    )


def train(model="SmolLM2-135M-Instruct", steps=STEPS):
    """Prints the mean reward of each step, and returns them."""
    service, renderer = connect(model)
    policy = service.create_lora_training_client(model, rank=16, seed=0).result()
    rng, stop, means = random.Random(0), renderer.get_stop_sequences(), []
    for step in range(steps):
        sampler = policy.save_weights_and_get_sampling_client().result()
        asked = [question(rng) for _ in range(QUESTIONS)]
        prompts = [renderer.build_generation_prompt(messages).only_tokens() for messages, _ in asked]
        futures = []
        for prompt in prompts:  # all at once: each call returns a future
            how = tinker.SamplingParams(max_tokens=MAX_TOKENS, seed=rng.getrandbits(31), stop=stop)
            futures.append(sampler.sample(tinker.ModelInput.from_ints(prompt), GROUP, how))
        data, means_P = [], []
        for prompt, (_, answer), future in zip(prompts, asked, futures, strict=True):
            sequences = future.result().sequences
            replies = [renderer.parse_response(sequence.tokens).message["content"] for sequence in sequences]
            rewards_G = np.array([float(reply == answer) for reply in replies])
            advantages_G = rewards_G - rewards_G.mean()
            means_P.append(rewards_G.mean())
            data += [datum(prompt, s, a) for s, a in zip(sequences, advantages_G, strict=True) if a]
        if data:
            update = policy.forward_backward(data, "importance_sampling")
            policy.optim_step(
                tinker.AdamParams(learning_rate=LR)
            ).result()  # after it, since calls keep order
            update.result()
        means.append(float(np.mean(means_P)))
        print(f"step {step + 1:2}  reward {means[-1]:.3f}  trained on {len(data)} replies", flush=True)
    return means


if __name__ == "__main__":
    train(*sys.argv[1:])
