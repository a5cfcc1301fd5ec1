"""A backend without a model, for tests of what happens around one."""

from __future__ import annotations

import asyncio
import functools
import json
import lzma
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import tinker

from cookbook import BackendConfig, EnvConfig, Message, Step
from cookbook.rendering import Renderer, Tokenizer, get_renderer, load_tokenizer
from cookbook.rl import RLConfig
from cookbook.runs import Run, read_rows
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

    A reply is one of the letters a to d, by (version, seed), and then the stop token where there is room.
    `before` is awaited at the start of each call with the call's name, the version and the prompt, and may
    raise or hold. `calls` is the order of the training calls, `data` what each of them was given, and
    `room` the max_tokens of each reply.
    """

    letters: tuple[int, ...] = ()  # the ids of a to d, by the fixture

    def __init__(self, before: Callable[..., Any] | None = None, version: int = 0) -> None:
        self.before, self.version = before, version
        self.calls: list[str] = []
        self.losses: list[tuple[str, dict[str, float] | None]] = []
        self.data: list[list[tinker.Datum]] = []
        self.samples: list[tuple[int, tuple[int, ...], int]] = []
        self.room: list[int] = []
        self.scored: list[tuple[Any, tuple[int, ...]]] = []
        self.opened: list[dict[str, str | None]] = []
        self.source: Any = version
        self.closed = False

    def create_lora_training_client(self, model: str, rank: int, seed: int):
        return self._answer("create", self)

    def forward_backward(self, data, loss_fn, loss_fn_config=None):
        self.calls.append(f"forward_backward {len(data)}")
        self.data.append(data)
        self.losses.append((loss_fn, loss_fn_config))
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

    def forward(self, data, loss_fn, loss_fn_config=None):
        self.calls.append(f"forward {len(data)}")
        outputs = [{"logprobs": d.loss_fn_inputs["logprobs"]} for d in data]
        return self._answer("forward", tinker.ForwardBackwardOutput("x", outputs, {"loss:sum": 1.0}))

    def save_weights_and_get_sampling_client(self):
        self.calls.append(f"publish {self.version}")
        return self._answer("publish", self._snapshot(self.version))

    def save_weights_for_sampler(self, name):
        self.calls.append(f"publish {self.version}")
        path = f"tinker://fake/sampler_weights/{name}-{self.version}"
        return self._answer("publish", tinker.types.SaveWeightsForSamplerResponse(path=path))

    def create_sampling_client(self, model_path=None, base_model=None):
        self.opened.append({"model_path": model_path, "base_model": base_model})
        version = int(model_path.rsplit("-", 1)[1]) if model_path else 0
        snapshot = self._snapshot(version)
        snapshot.source = model_path or base_model
        return self._answer("open", snapshot)

    def _snapshot(self, version):
        snapshot = FakeClient(self.before, version)
        snapshot.samples, snapshot.room, snapshot.scored = self.samples, self.room, self.scored
        return snapshot

    def create_training_client_from_state_with_optimizer(self, path):
        self.calls.append(f"load {path}")
        return self._answer("create", self)

    def create_training_client_from_state(self, path):
        self.calls.append(f"load weights {path}")
        return self._answer("create", self)

    def create_rest_client(self):
        return self

    def delete_checkpoint_from_tinker_path(self, path):
        self.calls.append(f"delete {path}")
        return self._answer("delete", None)

    def compute_logprobs(self, prompt):
        ids = tuple(prompt.to_ints())
        self.scored.append((self.source, ids))
        return self._answer("compute_logprobs", [None] + [-2.0] * (len(ids) - 1))

    async def sample(self, prompt, num_samples, sampling_params):
        ids, seed = tuple(prompt.to_ints()), sampling_params.seed
        self.samples.append((self.version, ids, seed))
        self.room.append(sampling_params.max_tokens)
        await self._answer("sample", None, ids)
        letter = self.letters[stream(self.version, seed) % 4]
        n = min(2, sampling_params.max_tokens)
        sequence = tinker.SampledSequence(
            stop_reason="stop" if n == 2 else "length",
            sequence_id="x",
            tokens_np=np.array([letter, 2][:n], dtype=np.int32),
            logprobs_np=np.array([-1.0, -0.5][:n], dtype=np.float32),
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


@chz.chz
class FakeBackend(BackendConfig):
    """A client given from outside, with the tiny model's tokenizer."""

    client: Any = None
    folder: Path = Path()

    def connect(self, run_dir):
        return self.client

    def tokenizer(self, model):
        return load_tokenizer(self.folder)


def is_a(reply: Message) -> Step:
    return Step(float(reply["content"] == "a"), True, correct=reply["content"] == "a")


class Letter:
    """A task of one turn, and its own env."""

    def __init__(self, number: int, answer: Callable[[Message], Step]) -> None:
        self.number, self.answer = number, answer

    def table(self) -> list[Any]:
        return [self]

    async def start(self) -> list[Message]:
        return [Message(role="user", content=f"{self.number}?")]

    async def step(self, reply: Message) -> Step:
        return self.answer(reply)


@chz.chz
class Letters(EnvConfig):
    """answer: what training tasks say to a reply; held-out ones always give 1.0 for an "a"."""

    answer: Any = is_a
    n: int = 6

    def tasks(self, split):
        return [Letter(i, self.answer if split == "train" else is_a) for i in range(self.n)]


@pytest.fixture(autouse=True)
def forgotten(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test imported from its own folder: another test may have a module of that name."""
    yield
    folder = request.node.funcargs.get("tmp_path")
    for name, module in list(sys.modules.items()) if folder else ():
        if (getattr(module, "__file__", None) or "").startswith(f"{folder}/"):
            del sys.modules[name]


@pytest.fixture
def letters() -> type[Letters]:
    return Letters


@pytest.fixture
def config(tiny_model: Path) -> Callable[..., RLConfig]:
    """`config(client, **values)`: a small RL run on a client."""

    def config(client: Any, **values: Any) -> RLConfig:
        defaults = {
            "env": Letters(),
            "model": "tiny",
            "renderer": "core/chatml",
            "backend": FakeBackend(client=client, folder=tiny_model),
            "steps": 4,
            "groups_per_step": 2,
            "group_size": 4,
            "max_tokens": 4,
            "eval_tasks": 3,
            "eval_every": 2,
        }
        return RLConfig(**(defaults | values))

    return config


@pytest.fixture
def train() -> Callable[..., list[dict[str, Any]]]:
    """`train(cfg, folder)`: its rows of metrics, times apart. Fails when any task is left."""

    def train(cfg: RLConfig, folder: Path | Run) -> list[dict[str, Any]]:
        run = folder if isinstance(folder, Run) else Run(folder, {})

        async def main() -> None:
            try:
                await cfg.run(run)
            finally:
                assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())
        rows = read_rows(run.folder)
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]

    return train


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


@pytest.fixture(scope="session")
def kept_tokenizer(tmp_path_factory):
    """Tokenizers in the repository, as much of them as renderer_goldens.json.xz needs: name -> it."""
    folder = tmp_path_factory.mktemp("kept")
    kept = json.loads(lzma.decompress((Path(__file__).parent / "renderer_goldens.json.xz").read_bytes()))
    for name, tokenizer in kept["tokenizers"].items():
        (folder / name).mkdir()
        (folder / name / "tokenizer.json").write_text(json.dumps(tokenizer))
    return functools.cache(lambda name: load_tokenizer(folder / name))


@pytest.fixture(scope="session")
def kept_renderer(kept_tokenizer):
    """Renderers with those tokenizers: an id and options -> it."""

    def make(id, /, **options):
        small = id in ("smollm2", "role_colon")
        name = "gpt_oss" if id.startswith("gpt_oss") else "smollm2" if small else "qwen3"
        return get_renderer(id, kept_tokenizer(name), **options)

    return make
