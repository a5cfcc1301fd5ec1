"""L1 and L2 of a backend: that its clients do what the loops take for granted, on a few tokens."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tinker

from .. import registry
from ..backends.base import plain_errors
from ..errors import CookbookError
from ..kinds import BackendConfig
from .rules import Report

CLOSE = 0.05
"""Nats, on average, by which two ways to compute one log-probability may differ: that of bfloat16."""
PATIENCE_S = 300.0
_RATES = (1e-3, 1e-2)
"""Of training: the second, where nothing is seen of the first."""
_TOKENS = 6
_GROUND = ("L1.backend-forward", "L1.backend-logprobs", "L1.backend-idle")
_LATER = ("L1.backend-trains", "L1.backend-restores", "L1.backend-version")


def check_backend(backend: str | BackendConfig, model: str = "") -> Report:
    """Samples a few tokens, trains on them, saves and restores.

    backend: an id, or a config. model: a small one; the backend's `default_model`, if none is given. It
    works in a temporary folder; on a service it makes a session and costs some hundred tokens.
    """
    report = Report(f"backend {backend if isinstance(backend, str) else type(backend).__name__}")
    try:
        row = registry.find("backend", backend) if isinstance(backend, str) else None
        config: Any = row.load()() if row else backend
    except (CookbookError, TypeError, ValueError) as error:
        report.find("L1.backend-connects", f"{type(error).__name__}: {error}")
        return report
    why = "" if model else _missing(config)
    if why:
        report.unchecked |= dict.fromkeys(("L1.backend-connects", *_GROUND, *_LATER), why)
        return report
    model = model or config.default_model
    with tempfile.TemporaryDirectory() as folder:
        _connected(config, model, Path(folder), report)
    return report


def _missing(config: Any) -> str:
    """Why there is no model to look at it with, or ""."""
    if not getattr(config, "default_model", ""):
        return "it has no default_model: call check_backend(backend, model)"
    try:
        config.tokenizer(config.default_model)
    except Exception as error:  # one that isn't ours is met again by `_connected`, which tells of it
        return str(error) if isinstance(error, CookbookError) else ""
    return ""


def _connected(config: Any, model: str, folder: Path, report: Report) -> None:
    try:
        tokenizer = config.tokenizer(model)
        prompt = [int(id) for id in tokenizer.encode("The digits of 1234:")]
        with plain_errors(), config.connect(folder) as service:
            asyncio.run(asyncio.wait_for(_looked_at(service, model, prompt, report), PATIENCE_S))
    except TimeoutError:
        report.find("L1.backend-calls", f"not over after {PATIENCE_S:g} s")
    except Exception as error:  # somebody's code
        report.find("L1.backend-connects", f"{type(error).__name__}: {error}")


async def _looked_at(service: Any, model: str, prompt: list[int], report: Report) -> None:
    client = await service.create_lora_training_client(model, rank=8, seed=0)
    doing = "save_weights_and_get_sampling_client"
    try:
        sampler = await client.save_weights_and_get_sampling_client()
        check = _Check(service, client, sampler, prompt, report)
        looks: list[Callable[[], Awaitable[None]]] = [check.samples, check.scores, check.idles]
        for look in [*looks, check.trains, check.restores, check.keeps_version]:
            if doing in ("scores", "idles") and {f.rule for f in report.findings} & set(_GROUND):
                report.unchecked |= dict.fromkeys(_LATER, "they rest on what was found")
                return
            doing = look.__name__
            await look()
    except Exception as error:  # somebody's code
        report.find("L1.backend-calls", f"while it {doing}: {type(error).__name__}: {error}")


@dataclass
class _Check:
    """sampled: a reply and its log-probabilities, which the rest trains on."""

    service: Any
    client: Any
    sampler: Any
    prompt: list[int]
    report: Report
    sampled: tuple[list[int], list[float]] = ((), ())  # type: ignore[assignment]
    rate: float = _RATES[0]
    same: float = 1e-4  # nats apart, on average, that are no difference: more where the backend repeats badly

    async def samples(self) -> None:
        first = await self.sample(seed=1)
        tokens, logprobs = list(first.tokens), list(first.logprobs or [])
        self.sampled = tokens, logprobs
        if not 0 < len(tokens) <= _TOKENS or (first.stop_reason == "length" and len(tokens) < _TOKENS):
            told = f"{len(tokens)} tokens of max_tokens={_TOKENS}, stop_reason {first.stop_reason!r}"
            self.report.find("L1.backend-sample", told)
        again = await self.sample(seed=1)
        if list(again.tokens) != tokens:
            self.report.find("L2.backend-seed", f"seed 1 gave {tokens}, then {list(again.tokens)}")
            return
        likely = [list((await self.sample(seed=seed, temperature=0.0)).tokens) for seed in (1, 2, 3)]
        if likely[0] != likely[1] or likely[0] != likely[2]:
            self.report.find("L2.backend-greedy", f"temperature 0 gave {likely[0]}, then {likely[1]}")
        stop = tokens[len(tokens) // 2]
        stopped = await self.sample(seed=1, stop=[stop])
        ended = list(stopped.tokens)
        if ended != tokens[: tokens.index(stop) + 1] or stopped.stop_reason != "stop":
            told = f"with the stop {stop}, {tokens} became {ended}, stop_reason {stopped.stop_reason!r}"
            self.report.find("L1.backend-sample", told)

    async def scores(self) -> None:
        """What the sampler, compute_logprobs and forward say of the same tokens."""
        tokens, logprobs = self.sampled
        if len(logprobs) != len(tokens) or not np.isfinite(logprobs).all() or max(logprobs, default=0) > 0:
            told = f"{len(tokens)} tokens have the log-probabilities {logprobs}"
            self.report.find("L1.backend-logprobs", told)
            self.sampled = tokens, [-1.0] * len(tokens)
            return
        scored = await self.scored(self.sampler)
        if (apart := _apart(logprobs, scored)) > CLOSE:
            told = f"sampled {_numbers(logprobs)}, compute_logprobs {_numbers(scored)}, {apart:.2g} apart"
            self.report.find("L1.backend-logprobs", told)
        self.agrees("forward", await self.forward(), scored)

    def agrees(self, name: str, given: list[float], ought: list[float]) -> None:
        if _apart(given, ought) > CLOSE:
            self.report.find("L1.backend-forward", f"{name} {_numbers(given)}, not {_numbers(ought)}")

    async def idles(self) -> None:
        before = await self.forward()
        self.same = max(self.same, 5 * _apart(await self.forward(), before))
        await self.backward(0.0)
        await self.adam(_RATES[-1])
        if _apart(await self.forward(), before) > self.same:
            self.report.find("L1.backend-idle", "advantages of 0 changed the log-probabilities")
            return
        self.agrees("forward_backward", await self.backward(1.0), before)
        await self.adam(0.0)
        if _apart(await self.forward(), before) > self.same:
            self.report.find("L1.backend-idle", "a learning rate of 0 changed the log-probabilities")

    async def trains(self) -> None:
        before = after = await self.forward()
        for self.rate in _RATES:
            for _ in range(3):
                await self.step()
            after = await self.forward()
            if sum(after) > sum(before) + len(after) * self.same:
                return
        told = f"after six steps {_numbers(before)} became {_numbers(after)}, at an advantage of 1"
        self.report.find("L1.backend-trains", told)

    async def restores(self) -> None:
        """A step from a saved state, twice: back, where the optimizer's momentum leads on."""
        saved = await self.client.save_state("check", overwrite=True)
        kept = await self.forward()
        await self.step(-1.0)
        once = await self.forward()
        path = saved.path
        self.client = await self.service.create_training_client_from_state_with_optimizer(path)
        if (apart := _apart(await self.forward(), kept)) > self.same:
            self.report.find("L1.backend-restores", f"log-probabilities came back {apart:.2g} nats apart")
            return
        await self.step(-1.0)
        if (apart := _apart(await self.forward(), once)) > self.same:
            told = f"a step after it leads {apart:.2g} nats away from where the same step led before"
            self.report.find("L1.backend-restores", told)

    async def keeps_version(self) -> None:
        """The first sampler, after all that; and one of now, which has learned."""
        sampler = await self.client.save_weights_and_get_sampling_client()
        now, trained = await self.scored(sampler), await self.forward()
        first = await self.scored(self.sampler)
        learned = _apart(trained, first) > self.same
        if _apart(now, trained) > CLOSE or (learned and _apart(now, first) <= self.same):
            told = f"{_numbers(now)}, the trainer {_numbers(trained)}, the first sampler {_numbers(first)}"
            self.report.find("L1.backend-version", f"a new sampler says {told}")
        await self.step()
        await self.step()
        if _apart(await self.scored(sampler), now) > self.same:
            self.report.find("L1.backend-version", "two steps of training changed what was published before")

    async def sample(self, *, seed: int, temperature: float = 1.0, stop: Any = ()) -> Any:
        how = tinker.SamplingParams(
            max_tokens=_TOKENS, seed=seed, temperature=temperature, stop=list(stop), top_p=1.0, top_k=-1
        )
        prompt = tinker.ModelInput.from_ints(self.prompt)
        response = await self.sampler.sample(prompt, num_samples=1, sampling_params=how)
        return response.sequences[0]

    async def scored(self, sampler: Any) -> list[float]:
        """compute_logprobs of the sampled tokens."""
        tokens = [*self.prompt, *self.sampled[0]]
        given = await sampler.compute_logprobs(tinker.ModelInput.from_ints(tokens))
        if len(given) != len(tokens):
            told = f"compute_logprobs gave {len(given)} values for {len(tokens)} tokens"
            self.report.find("L1.backend-logprobs", told)
        return [float(value or 0.0) for value in given[len(self.prompt) :]]

    async def forward(self) -> list[float]:
        return self.of(await self.client.forward([self.datum(1.0)], "importance_sampling"))

    async def backward(self, advantage: float) -> list[float]:
        return self.of(await self.client.forward_backward([self.datum(advantage)], "importance_sampling"))

    def of(self, output: Any) -> list[float]:
        """The sampled tokens' log-probabilities, as the trainer says them."""
        logprobs = output.loss_fn_outputs[0]["logprobs"].to_numpy().tolist()
        return logprobs[len(self.prompt) - 1 :]

    async def adam(self, rate: float) -> None:
        await self.client.optim_step(
            tinker.AdamParams(learning_rate=rate, weight_decay=0.0, grad_clip_norm=0.0)
        )

    async def step(self, advantage: float = 1.0) -> None:
        await self.backward(advantage)
        await self.adam(self.rate)

    def datum(self, advantage: float) -> tinker.Datum:
        tokens, logprobs = self.sampled
        whole, given = [*self.prompt, *tokens], [0.0] * (len(self.prompt) - 1)
        inputs = {
            "target_tokens": np.array(whole[1:], dtype=np.int64),
            "logprobs": np.array([*given, *logprobs], dtype=np.float32),
            "advantages": np.array([*given, *[advantage] * len(tokens)], dtype=np.float32),
        }
        return tinker.Datum(
            model_input=tinker.ModelInput.from_ints(whole[:-1]),
            loss_fn_inputs={name: tinker.TensorData.from_numpy(values) for name, values in inputs.items()},
        )


def _apart(a: list[float], b: list[float]) -> float:
    """Mean difference, nats; infinite for other lengths and for what is no number."""
    if len(a) != len(b) or not np.isfinite([*a, *b]).all():
        return float("inf")
    return float(np.abs(np.subtract(a, b)).mean()) if a else 0.0


def _numbers(values: list[float]) -> str:
    return f"[{', '.join(f'{value:.3g}' for value in values)}]"
