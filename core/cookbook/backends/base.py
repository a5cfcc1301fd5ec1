"""The slice of the tinker client API that the loops use, and `Trainer`, which orders its calls.

A backend's `connect` gives a service client with tinker's methods and types; nothing here wraps them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tinker

from ..errors import BackendError


class SamplingClient(Protocol):
    """`sample` may be called many times at once; cancelling what awaits it gives the slot back."""

    def sample(
        self, prompt: tinker.ModelInput, num_samples: int, sampling_params: tinker.SamplingParams
    ) -> Awaitable[tinker.SampleResponse]: ...


class TrainingClient(Protocol):
    """Requests are carried out in the order of the calls; each call returns at once."""

    def forward_backward(
        self, data: list[tinker.Datum], loss_fn: Any, loss_fn_config: dict[str, float] | None = None
    ) -> Awaitable[tinker.ForwardBackwardOutput]: ...

    def optim_step(self, optim_params: tinker.AdamParams) -> Awaitable[tinker.OptimStepResponse]: ...

    def save_state(self, name: str, *, overwrite: bool = False) -> Awaitable[Any]: ...

    def save_weights_and_get_sampling_client(self) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class Sampler:
    """Fixed weights to sample from. version: the number of batches that went into them."""

    client: SamplingClient
    version: int


@dataclass(frozen=True, slots=True)
class Update:
    """What training on a batch gave: the backend's metrics, and for each datum, in the order of
    submission, the log-probabilities of its targets before the update (float32, shape [T], nats)."""

    metrics: dict[str, float]
    logprobs_D: list[np.ndarray]


@contextmanager
def plain_errors() -> Iterator[None]:
    """What the SDK raises (no key, an unknown model, a session that expired) as one-line `BackendError`s."""
    try:
        yield
    except tinker.TinkerError as e:
        reason = " ".join(str(e).split())
        if "api_key" in reason:
            reason = "the Tinker service needs a key: set TINKER_API_KEY, or run `tinker auth login`"
            raise BackendError(f"{reason}; with --local this machine trains, without a key") from None
        raise BackendError(f"the Tinker service: {type(e).__name__}: {reason}") from e


class Trainer:
    """Submits a step's gradient parts and its optimizer step together, and publishes weights."""

    def __init__(self, client: TrainingClient, loss_fn: str) -> None:
        self._client, self._loss_fn = client, loss_fn
        self._parts: list[Awaitable[tinker.ForwardBackwardOutput]] = []
        self._published: SamplingClient | None = None
        self.optimizer_steps = 0

    def accumulate(self, data_D: Sequence[tinker.Datum]) -> None:
        """Submits a part of the step's gradient, and doesn't wait for it."""
        if data_D:
            self._parts.append(self._client.forward_backward(list(data_D), self._loss_fn))

    def step(self, adam: tinker.AdamParams) -> Coroutine[Any, Any, Update]:
        """Submits the optimizer step at once. A batch with no gradient takes none: momentum and decay
        would move the weights even so."""
        parts, self._parts = self._parts, []
        optim = self._client.optim_step(adam) if parts else None
        if parts:
            self.optimizer_steps += 1
            self._published = None
        return self._finish(parts, optim)

    async def _finish(self, parts: list[Awaitable[Any]], optim: Awaitable[Any] | None) -> Update:
        metrics: dict[str, float] = {}
        logprobs_D: list[np.ndarray] = []
        for part in parts:
            output = await part
            metrics["loss"] = metrics.get("loss", 0.0) + output.metrics["loss:sum"]
            logprobs_D += [out["logprobs"].to_numpy() for out in output.loss_fn_outputs]
        if optim is not None:
            metrics.update((await optim).metrics or {})
        return Update(metrics, logprobs_D)

    def publish(self, version: int) -> Coroutine[Any, Any, Sampler]:
        """Submits a snapshot of the weights as they are after all that was submitted before.

        The same snapshot serves again when nothing was trained since.
        """
        if self._published is not None:
            return self._republish(self._published, version)
        return self._publish(self._client.save_weights_and_get_sampling_client(), version)

    async def _republish(self, client: SamplingClient, version: int) -> Sampler:
        return Sampler(client, version)

    async def _publish(self, snapshot: Awaitable[Any], version: int) -> Sampler:
        client = self._published = await snapshot
        return Sampler(client, version)

    async def save(self, name: str) -> str:
        """Keeps weights and optimizer state; returns the path to load them from."""
        # A run that was killed and resumed comes by the same name again.
        return (await self._client.save_state(name, overwrite=True)).path
