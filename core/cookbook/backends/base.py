"""The slice of the tinker client API that the loops use, and `Trainer`, which orders its calls.

A backend's `connect` gives a service client with tinker's methods and types; nothing here wraps them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tinker

from ..errors import BackendError

log = logging.getLogger("cookbook")


class SamplingClient(Protocol):
    """Calls may be made many at once; cancelling what awaits `sample` gives the slot back."""

    def sample(
        self, prompt: tinker.ModelInput, num_samples: int, sampling_params: tinker.SamplingParams
    ) -> Awaitable[tinker.SampleResponse]: ...

    def compute_logprobs(self, prompt: tinker.ModelInput) -> Awaitable[list[float | None]]: ...


class TrainingClient(Protocol):
    """Requests are carried out in the order of the calls; each call returns at once."""

    def forward(
        self, data: list[tinker.Datum], loss_fn: Any, loss_fn_config: dict[str, float] | None = None
    ) -> Awaitable[tinker.ForwardBackwardOutput]: ...

    def forward_backward(
        self, data: list[tinker.Datum], loss_fn: Any, loss_fn_config: dict[str, float] | None = None
    ) -> Awaitable[tinker.ForwardBackwardOutput]: ...

    def optim_step(self, optim_params: tinker.AdamParams) -> Awaitable[tinker.OptimStepResponse]: ...

    def save_state(self, name: str, *, overwrite: bool = False) -> Awaitable[Any]: ...

    def save_weights_for_sampler(self, name: str) -> Awaitable[Any]: ...

    def save_weights_and_get_sampling_client(self) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class Sampler:
    """Fixed weights to sample from. version: the number of batches that went into them. path: where they
    are kept, or "" where they aren't."""

    client: SamplingClient
    version: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Update:
    """What training on a batch gave: the backend's metrics, and for each datum, in the order of
    submission, the log-probabilities of its targets before the update (float32, shape [T], nats)."""

    metrics: dict[str, float]
    logprobs_D: list[np.ndarray]


@dataclass(frozen=True, slots=True)
class Saved:
    """Weights and optimizer state on disk. path: to load them from. optimizer_steps: that they contain."""

    path: str
    optimizer_steps: int


_ADVICE = {
    401: "check TINKER_API_KEY",
    403: "check TINKER_API_KEY",
    404: "check model= and load=; `tinker model list` and `tinker checkpoint list` show what there is",
}


@contextmanager
def plain_errors() -> Iterator[None]:
    """What the SDK raises (no key, an unknown model, a session that expired) as one-line `BackendError`s."""
    try:
        yield
    except Exception as e:
        if not is_the_sdks(e):
            raise
        if "api_key" in str(e):
            reason = "the Tinker service needs a key: set TINKER_API_KEY, or run `tinker auth login`"
            raise BackendError(f"{reason}; with --local this machine trains, without a key") from None
        raise BackendError(f"the Tinker service: {_reason(e)}") from e


def _reason(error: Exception) -> str:
    """An error of the SDK, what was behind it and what to do, in one line."""
    cause, text = error.__cause__, str(error)
    if not text:  # an assertion, most likely
        text = traceback.extract_tb(error.__traceback__)[-1].line or ""
    text = f"{type(error).__name__}: {text}"
    if isinstance(error, tinker.APIConnectionError):
        text += f" ({error.request.url})"
    elif cause is not None and str(cause) not in text:
        text += f" ({cause})"
    status = getattr(error, "status_code", None) or getattr(cause, "status_code", None)
    return " ".join(text.split()) + (f"; {_ADVICE[status]}" if status in _ADVICE else "")


def is_the_sdks(error: Exception) -> bool:
    """Its clients raise ValueError, AssertionError and their own kinds too, where a request fails."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    origin = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return isinstance(error, tinker.TinkerError) or origin.startswith("tinker.lib.")


@contextmanager
def told(what: str, every_s: float = 30.0) -> Iterator[None]:
    """Says again and again that this is waited for, while it lasts: a server that can't be reached is tried
    for minutes."""

    def tell() -> None:
        waited_s = every_s
        while not over.wait(every_s):
            log.warning("%s: waited %.0f s so far", what, waited_s)
            waited_s += every_s

    over = threading.Event()
    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        over.set()


async def together(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Runs all at once; results in order. The first error cancels the others, and is raised alone."""
    tasks: list[asyncio.Task[Any]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(c) for c in coroutines]
    except BaseExceptionGroup as e:
        error: BaseException = e
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from error.__cause__  # rather than from the group
    return [task.result() for task in tasks]


async def logprobs_under(client: SamplingClient, tokens_D: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The log-probability of each token of each sequence after those before it, float64 [T] nats; 0 for
    the first."""
    answers = await together(
        _answer(client.compute_logprobs(tinker.ModelInput.from_ints(tokens_T.tolist())))
        for tokens_T in tokens_D
    )
    for tokens_T, answer in zip(tokens_D, answers, strict=True):
        if len(answer) != len(tokens_T):
            raise BackendError(f"compute_logprobs gave {len(answer)} values for {len(tokens_T)} tokens")
    return [np.array([0.0, *answer[1:]], dtype=np.float64) for answer in answers]


async def _answer(future: Awaitable[Any]) -> Any:
    return await future


class Trainer:
    """Submits a step's gradient parts and its optimizer step together, and publishes weights."""

    def __init__(
        self,
        client: TrainingClient,
        loss_fn: str,
        loss_config: dict[str, float] | None = None,
        reopen: Callable[[str], Awaitable[SamplingClient]] | None = None,
    ) -> None:
        """reopen: makes a sampling client of a path; given where published weights must be kept, since
        what goes on from a checkpoint samples from some that are older."""
        self._client, self._loss_fn, self._loss_config = client, loss_fn, loss_config
        self._reopen = reopen
        self._parts: list[Awaitable[tinker.ForwardBackwardOutput]] = []
        self._published: Sampler | None = None
        self.optimizer_steps = 0

    def accumulate(self, data_D: Sequence[tinker.Datum]) -> None:
        """Submits a part of the step's gradient, and doesn't wait for it."""
        if data_D:
            self._parts.append(self._client.forward_backward(list(data_D), self._loss_fn, self._loss_config))

    def forward(
        self, data_D: Sequence[tinker.Datum], loss_fn: str | None = None
    ) -> Coroutine[Any, Any, list[np.ndarray]]:
        """Submits a pass without gradient: each target's log-probability by the weights as they are after
        all that was submitted before, float32 [T] nats a datum."""
        config = self._loss_config if loss_fn is None else None
        future = self._client.forward(list(data_D), loss_fn or self._loss_fn, config) if data_D else None
        return self._logprobs(future)

    async def _logprobs(self, future: Awaitable[tinker.ForwardBackwardOutput] | None) -> list[np.ndarray]:
        outputs = (await future).loss_fn_outputs if future is not None else []
        return [out["logprobs"].to_numpy() for out in outputs]

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
            if "loss:sum" in output.metrics:  # not every server tells it
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
        if self._reopen is not None:
            return self._keep(self._client.save_weights_for_sampler(f"{version:06d}"), version)
        return self._publish(self._client.save_weights_and_get_sampling_client(), version)

    async def reopen(self, version: int, path: str) -> Sampler:
        """Weights that were published before."""
        assert self._reopen is not None
        return Sampler(await self._reopen(path), version, path)

    async def _republish(self, sampler: Sampler, version: int) -> Sampler:
        return Sampler(sampler.client, version, sampler.path)

    async def _keep(self, saved: Awaitable[Any], version: int) -> Sampler:
        self._published = await self.reopen(version, (await saved).path)
        return self._published

    async def _publish(self, snapshot: Awaitable[Any], version: int) -> Sampler:
        self._published = Sampler(await snapshot, version)
        return self._published

    def save(self, name: str) -> Coroutine[Any, Any, Saved]:
        """Submits that weights and optimizer state be kept as they are after all that was submitted."""
        # A run that was killed and resumed comes by the same name again.
        return self._save(self._client.save_state(name, overwrite=True), self.optimizer_steps)

    async def _save(self, saved: Awaitable[Any], optimizer_steps: int) -> Saved:
        return Saved((await saved).path, optimizer_steps)
