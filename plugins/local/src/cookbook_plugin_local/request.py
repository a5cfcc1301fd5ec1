"""A call of `sample` or `compute_logprobs`, checked, and its answer."""

from __future__ import annotations

import secrets
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tinker
from tinker.types.topk_logprobs import TopkLogprobs

from cookbook.errors import ConfigError

from .shape import LlamaShape


@dataclass(frozen=True)
class Scoring:
    """What is wanted of a prompt's own tokens. last_n: log-probabilities of so many tokens at its end.
    top_k: and of so many tokens likeliest at each of these places."""

    last_n: int = 0
    top_k: int = 0


@dataclass
class Scores:
    """Of a prompt of T tokens: logprobs float32 [T] in nats, NaN where there is none; the likeliest tokens
    int32 [T, k] and their log-probabilities float32 [T, k]."""

    logprobs: np.ndarray
    top: TopkLogprobs

    @classmethod
    def empty(cls, length: int, top_k: int) -> Scores:
        ids, logprobs = np.zeros((length, top_k), np.int32), np.full((length, top_k), -99999.0, np.float32)
        return cls(np.full(length, np.nan, np.float32), TopkLogprobs(ids, logprobs))


@dataclass(frozen=True, eq=False)
class Request:
    """num_samples sequences after `prompt`; with 0, its log-probabilities alone, as a list.

    stop_ids end a sequence, stop_texts likewise, wherever token borders lie. top_k, top_p: sample from the
    likeliest tokens only (-1 and 1: from all), after the temperature. sample_top_k: report so many of the
    likeliest at each sampled position.
    """

    prompt: tuple[int, ...]
    num_samples: int
    max_tokens: int
    temperature: float
    seed: int
    stop_ids: frozenset[int]
    stop_texts: tuple[str, ...]
    top_k: int = -1
    top_p: float = 1.0
    sample_top_k: int = 0
    scoring: Scoring = Scoring()
    future: Future[Any] = field(default_factory=Future)
    finished: dict[int, tinker.SampledSequence] = field(default_factory=dict)

    def answer(self, scores: Scores, cached: int) -> None:
        """Gives the response, once all sequences are there. cached: tokens of the prompt that were known
        from earlier requests."""
        if len(self.finished) < self.num_samples or not self.future.set_running_or_notify_cancel():
            return
        wanted = self.scoring
        response = tinker.SampleResponse(
            sequences=[self.finished[i] for i in range(self.num_samples)],
            prompt_logprobs_np=scores.logprobs if wanted.last_n else None,
            topk_prompt_logprobs_np=scores.top if wanted.top_k else None,
            prompt_cache_hit_tokens=cached,
        )
        self.future.set_result(response if self.num_samples else response.prompt_logprobs or [None])


def new_request(
    prompt: tinker.ModelInput,
    num_samples: int,
    params: tinker.SamplingParams,
    shape: LlamaShape,
    *,
    scoring: Scoring = Scoring(),
    sample_top_k: int = 0,
) -> Request:
    """A request from tinker's types. Raises `ConfigError` for what can't be sampled."""
    ids = _ids(prompt, shape)
    room = shape.context - len(ids)
    max_tokens = room if params.max_tokens is None else params.max_tokens
    _check(
        {
            f"num_samples={num_samples}: must be 1 or more": num_samples >= 1,
            f"temperature={params.temperature}: must be 0 (greedy) or more": params.temperature >= 0,
            f"top_k={params.top_k}: must be 1 or more, or -1 for all tokens": params.top_k == -1
            or params.top_k >= 1,
            f"top_p={params.top_p}: must be more than 0, and at most 1": 0 < params.top_p <= 1,
            f"{len(ids)} prompt tokens and max_tokens={max_tokens} don't fit in {shape.context} of context": (
                1 <= max_tokens <= room
            ),
            f"topk_sample_logprobs={sample_top_k}: must be from 0 to {shape.vocab}": (
                0 <= sample_top_k <= shape.vocab
            ),
        }
    )
    stop = params.stop
    stops = list(shape.eos) if stop is None else [stop] if isinstance(stop, str) else list(stop)
    return Request(
        prompt=ids,
        num_samples=num_samples,
        max_tokens=max_tokens,
        temperature=params.temperature,
        seed=secrets.randbits(62) if params.seed is None else params.seed,
        stop_ids=frozenset(s for s in stops if isinstance(s, int)),
        stop_texts=tuple(s for s in stops if isinstance(s, str)),
        top_k=params.top_k,
        top_p=params.top_p,
        sample_top_k=sample_top_k,
        scoring=scoring,
    )


def score_request(prompt: tinker.ModelInput, last_n: int | None, shape: LlamaShape) -> Request:
    """One of `compute_logprobs`. Raises `ConfigError` for what can't be scored."""
    ids = _ids(prompt, shape)
    _check({f"{len(ids)} prompt tokens don't fit in {shape.context} of context": len(ids) <= shape.context})
    return Request(ids, 0, 0, 1.0, 0, frozenset(), (), scoring=new_scoring(len(ids), True, last_n, 0, shape))


def new_scoring(length: int, wanted: bool, last_n: int | None, top_k: int, shape: LlamaShape) -> Scoring:
    """Of a prompt of so many tokens, from the arguments of tinker's `sample`: include_prompt_logprobs,
    prompt_logprobs_last_n and topk_prompt_logprobs. Raises `ConfigError` for what can't be."""
    line = f"prompt_logprobs_last_n={last_n}: must be from 1 to {length - 1}, all tokens but the first"
    _check(
        {
            f"topk_prompt_logprobs={top_k}: must be from 0 to {shape.vocab}": 0 <= top_k <= shape.vocab,
            line: last_n is None or 1 <= last_n < length,
            f"prompt_logprobs_last_n={last_n} needs include_prompt_logprobs": last_n is None or wanted,
        }
    )
    return Scoring((last_n or length - 1) if wanted or top_k else 0, top_k)


def _ids(prompt: tinker.ModelInput, shape: LlamaShape) -> tuple[int, ...]:
    ids = tuple(prompt.to_ints())
    _check({"a prompt of 0 tokens: must be 1 or more": ids})
    low, high = min(ids), max(ids)
    line = f"prompt tokens from {low} to {high}: the model has 0 to {shape.vocab - 1}"
    _check({line: 0 <= low <= high < shape.vocab})
    return ids


def _check(conditions: dict[str, Any]) -> None:
    for line, holds in conditions.items():
        if not holds:
            raise ConfigError(line)
