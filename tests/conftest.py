"""A backend without a model, for tests of what happens around one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker

from cookbook.rendering import Renderer, Tokenizer, get_renderer, load_tokenizer
from cookbook.streams import stream
from cookbook_plugin_local.tiny import make_tiny_llama


class Answer:
    """What a call returns: awaited when the caller likes, or never, as with tinker's futures."""

    def __init__(self, wait: Callable[[], Any], value: Any) -> None:
        self.wait, self.value = wait, value

    def __await__(self):
        yield from self.wait().__await__()
        return self.value


class FakeClient:
    """Service, training and sampling client in one, with tinker's methods.

    A reply is one of the letters a to d, by (version, seed), and then the stop token. `before` is
    awaited at the start of each call with the call's name, the version and the prompt, and may raise or
    hold. `calls` is the order of the training calls.
    """

    letters: tuple[int, ...] = ()  # the ids of a to d, by the fixture

    def __init__(self, before: Callable[..., Any] | None = None, version: int = 0) -> None:
        self.before, self.version = before, version
        self.calls: list[str] = []
        self.samples: list[tuple[int, tuple[int, ...], int]] = []
        self.closed = False

    def create_lora_training_client(self, model: str, rank: int, seed: int):
        return self._answer("create", self)

    def forward_backward(self, data, loss_fn, loss_fn_config=None):
        self.calls.append(f"forward_backward {len(data)}")
        outputs = [{"logprobs": d.loss_fn_inputs["logprobs"]} for d in data]
        return self._answer("forward_backward", tinker.ForwardBackwardOutput("x", outputs, {"loss:sum": 1.0}))

    def optim_step(self, params):
        self.calls.append("optim_step")
        self.version += 1
        return self._answer("optim_step", tinker.OptimStepResponse(metrics={}))

    def save_state(self, name, overwrite=False):
        self.calls.append(f"save_state {name}")
        return self._answer(
            "save_state", tinker.types.SaveWeightsResponse(path=f"tinker://fake/weights/{name}")
        )

    def save_weights_and_get_sampling_client(self):
        self.calls.append(f"publish {self.version}")
        snapshot = FakeClient(self.before, self.version)
        snapshot.samples = self.samples
        return self._answer("publish", snapshot)

    async def sample(self, prompt, num_samples, sampling_params):
        ids, seed = tuple(prompt.to_ints()), sampling_params.seed
        self.samples.append((self.version, ids, seed))
        await self._answer("sample", None, ids)
        letter = self.letters[stream(self.version, seed) % 4]
        sequence = tinker.SampledSequence(
            stop_reason="stop",
            sequence_id="x",
            tokens_np=np.array([letter, 2], dtype=np.int32),
            logprobs_np=np.array([-1.0, -0.5], dtype=np.float32),
        )
        return tinker.SampleResponse(sequences=[sequence])

    def _answer(self, name: str, value: Any, *facts: Any) -> Answer:
        async def wait() -> None:
            await asyncio.sleep(0)
            if self.before is not None:
                await self.before(name, self.version, *facts)

        return Answer(wait, value)

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True


@pytest.fixture
def fake_client(tokenizer: Tokenizer) -> type[FakeClient]:
    FakeClient.letters = tuple(tokenizer.encode("abcd"))
    return FakeClient


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random-weight Llama and a byte-level tokenizer that knows ChatML."""
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="session")
def chatml(tokenizer: Tokenizer) -> Renderer:
    return get_renderer("core/chatml", tokenizer)
