"""A backend around another: a line in the run's folder for each sample, and no more than so many at once.

    cookbook run core/rl env=math/arithmetic backend=custom_backend:Watched backend.inner=local/torch \\
        backend.at_once=16 model=SmolLM2-135M-Instruct steps=2 max_tokens=8
"""

from __future__ import annotations

import asyncio
import json
import time

import chz

from cookbook import BackendConfig, by_id
from cookbook.errors import ConfigError

MAKERS = (
    "create_lora_training_client",
    "create_training_client_from_state",
    "create_training_client_from_state_with_optimizer",
    "create_sampling_client",
    "save_weights_and_get_sampling_client",
)


class Client:
    """A service or training client. What it makes is wrapped too; all else goes straight to the inner one."""

    def __init__(self, inner, watch):
        self.inner, self.watch = inner, watch

    def __getattr__(self, name):
        method = getattr(self.inner, name)
        if name not in MAKERS:
            return method
        # Called at once and awaited later, since requests are carried out in the order of the calls.
        return lambda *args, **kwargs: self._wrapped(method(*args, **kwargs))

    async def _wrapped(self, made):
        client = await made
        return Sampler(client, self.watch) if hasattr(client, "sample") else Client(client, self.watch)

    def __enter__(self):
        self.inner.__enter__()
        return self

    def __exit__(self, *error):
        return self.inner.__exit__(*error)


class Sampler:
    """A sampling client that waits for its place, and tells how long its sample took."""

    def __init__(self, inner, watch):
        self.inner, self.watch = inner, watch

    def __getattr__(self, name):
        return getattr(self.inner, name)

    async def sample(self, prompt, num_samples, sampling_params):
        async with self.watch.places:
            began = time.perf_counter()
            response = await self.inner.sample(prompt, num_samples, sampling_params)
            tokens = sum(len(sequence.tokens) for sequence in response.sequences)
            self.watch.tell(prompt=prompt.length, tokens=tokens, seconds=time.perf_counter() - began)
            return response


class Watch:
    """The places and the file that all samplers of a run share."""

    def __init__(self, file, at_once):
        self.file, self.places = file, asyncio.Semaphore(at_once)

    def tell(self, **row):
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


@chz.chz(typecheck=True)
class Watched(BackendConfig):
    inner: BackendConfig = chz.field(
        meta_factory=by_id("backend", default="core/tinker"), doc="what it is around"
    )
    at_once: int = chz.field(default=64, doc="samples at once")

    @chz.validate
    def _check(self):
        if self.at_once < 1:
            raise ConfigError(f"at_once={self.at_once}: must be 1 or more")

    def connect(self, run_dir):
        return Client(self.inner.connect(run_dir), Watch(run_dir / "samples.jsonl", self.at_once))

    def tokenizer(self, model):
        return self.inner.tokenizer(model)

    def context(self, model):
        return self.inner.context(model)

    def rest_client(self, service):
        return self.inner.rest_client(service.inner)

    def describe(self):
        return self.inner.describe()
