"""A policy that is a table, behind tinker's clients: exact gradients, in numpy, for tests of what learns.

The next token depends on the last one alone: softmax(logits[last]) over a few choices. A target that is
none of them (an observation) has log-probability 0 and no gradient.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chz
import numpy as np
import tinker

from cookbook import BackendConfig
from cookbook.rendering import load_tokenizer

ROWS = 512  # ids of a last token
Inputs = Mapping[str, np.ndarray]


def losses(name: str, logp_T: np.ndarray, held_T: np.ndarray, x: Inputs, config: Mapping[str, float] | None):
    """Each token's loss. held_T: log pi where the formula stops the gradient."""
    c, mu_T, a_T = config or {}, x["logprobs"], x["advantages"]
    if name == "dro":
        return -(a_T * logp_T - c["beta"] / 2 * (logp_T - mu_T) ** 2)
    ratio_T = np.exp(logp_T - mu_T)
    if name == "importance_sampling":
        return -ratio_T * a_T
    low, high = c["clip_low_threshold"], c["clip_high_threshold"]
    if name == "cispo":
        return -np.clip(np.exp(held_T - mu_T), low, high) * a_T * logp_T
    if name == "gspo":
        at = x["sequence_ratio_mask"] != 0
        ratio_T = np.exp((held_T - mu_T)[at].mean()) * np.exp(logp_T - held_T)
    return -np.minimum(ratio_T * a_T, np.clip(ratio_T, low, high) * a_T)


def slopes(name: str, logp_T: np.ndarray, x: Inputs, config: Mapping[str, float] | None) -> np.ndarray:
    """The derivative of each token's loss in its log pi, by hand."""
    c, mu_T, a_T = config or {}, x["logprobs"], x["advantages"]
    if name == "dro":
        return -(a_T - c["beta"] * (logp_T - mu_T))
    ratio_T = np.exp(logp_T - mu_T)
    if name == "importance_sampling":
        return -ratio_T * a_T
    low, high = c["clip_low_threshold"], c["clip_high_threshold"]
    if name == "cispo":
        return -np.clip(ratio_T, low, high) * a_T
    if name == "gspo":
        at = x["sequence_ratio_mask"] != 0
        ratio_T = np.full_like(logp_T, np.exp((logp_T - mu_T)[at].mean()))
    unclipped_T = ratio_T * a_T
    return np.where(unclipped_T <= np.clip(ratio_T, low, high) * a_T, -unclipped_T, 0.0)


@dataclass
class Table:
    """logits: float64 [ROWS, K], by the last token and the next one's place among `choices`."""

    choices: tuple[int, ...]
    logits: np.ndarray

    @classmethod
    def uniform(cls, choices: Sequence[int]) -> Table:
        return cls(tuple(choices), np.zeros((ROWS, len(choices))))

    def copy(self) -> Table:
        return Table(self.choices, self.logits.copy())

    def log_softmax(self, last_T: np.ndarray | int) -> np.ndarray:
        logits = self.logits[last_T]
        logits = logits - logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def logprobs(self, inputs_T: np.ndarray, targets_T: np.ndarray) -> np.ndarray:
        hot_TK = targets_T[:, None] == np.array(self.choices)
        return np.where(hot_TK, self.log_softmax(inputs_T), 0.0).sum(-1)

    def gradient(self, inputs_T: np.ndarray, targets_T: np.ndarray, slopes_T: np.ndarray) -> np.ndarray:
        """Of sum_t slopes[t] log pi(target[t]), [ROWS, K]."""
        gradient = np.zeros_like(self.logits)
        hot_TK = targets_T[:, None] == np.array(self.choices)
        slopes_T = np.where(hot_TK.any(-1), slopes_T, 0.0)
        np.add.at(gradient, inputs_T, slopes_T[:, None] * (hot_TK - np.exp(self.log_softmax(inputs_T))))
        return gradient

    def draw(self, last: int, uniform: float, temperature: float) -> tuple[int, float]:
        """A token by its place in [0, 1), or the likeliest at temperature 0, and its log-probability."""
        assert temperature in (0, 1)
        logp_K = self.log_softmax(last)
        k = int(np.searchsorted(np.exp(logp_K).cumsum(), uniform, side="right"))
        k = min(k, len(self.choices) - 1) if temperature else int(logp_K.argmax())
        return self.choices[k], float(logp_K[k])


class Answer:
    """What a call returns: its value is there already; awaited when the caller likes, or never."""

    def __init__(self, value: Any, wait: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.value, self.wait = value, wait

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        if self.wait is not None:
            yield from self.wait().__await__()
        return self.value


Before = Callable[..., Awaitable[None]]


@dataclass
class SamplingClient:
    """before: awaited as each `sample` begins, with "sample" and its seed."""

    table: Table
    before: Before | None

    async def sample(
        self, prompt: tinker.ModelInput, num_samples: int, sampling_params: tinker.SamplingParams
    ) -> tinker.SampleResponse:
        await asyncio.sleep(0)
        if self.before is not None:
            await self.before("sample", sampling_params.seed)
        random, last, tokens, logprobs = (
            np.random.default_rng(sampling_params.seed),
            prompt.to_ints()[-1],
            [],
            [],
        )
        while len(tokens) < sampling_params.max_tokens and last not in sampling_params.stop:
            last, logp = self.table.draw(last, random.random(), sampling_params.temperature)
            tokens.append(last)
            logprobs.append(logp)
        sequence = tinker.SampledSequence(
            stop_reason="stop" if last in sampling_params.stop else "length",
            sequence_id="x",
            tokens_np=np.array(tokens, dtype=np.int32),
            logprobs_np=np.array(logprobs, dtype=np.float32),
        )
        return tinker.SampleResponse(sequences=[sequence])

    def compute_logprobs(self, prompt: tinker.ModelInput) -> Answer:
        ids_T = np.array(prompt.to_ints())
        return Answer([None, *self.table.logprobs(ids_T[:-1], ids_T[1:]).tolist()])


@dataclass
class Client:
    """Service and training client in one. wire: (loss, loss_fn_config, number of datums) of each
    forward_backward. before: as that of `SamplingClient`, and with "optim_step" and the step's number."""

    table: Table
    before: Before | None = None
    wire: list[tuple[str, dict[str, float] | None, int]] = field(default_factory=list)
    steps: int = 0

    def __post_init__(self) -> None:
        self.base = self.table.copy()
        self.moments = np.zeros((2, *self.table.logits.shape))
        self.gradient = np.zeros_like(self.table.logits)
        self.saved: dict[str, tuple[Table, np.ndarray, int]] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None: ...

    def create_lora_training_client(self, model: str, rank: int, seed: int) -> Answer:
        return Answer(self)

    def create_training_client_from_state_with_optimizer(self, path: str) -> Answer:
        table, self.moments, self.steps = self.saved[path]
        self.table = table.copy()
        return Answer(self)

    def create_training_client_from_state(self, path: str) -> Answer:
        self.table = self.saved[path][0].copy()
        return Answer(self)

    def create_sampling_client(self, model_path: str | None = None, base_model: str | None = None) -> Answer:
        table = self.saved[model_path][0] if model_path else self.base
        return Answer(SamplingClient(table.copy(), self.before))

    def create_rest_client(self) -> Client:
        return self

    def delete_checkpoint_from_tinker_path(self, path: str) -> Answer:
        return Answer(self.saved.pop(path) and None)

    def save_state(self, name: str, overwrite: bool = False) -> Answer:
        return Answer(tinker.types.SaveWeightsResponse(path=self._keep(f"tinker://x/weights/{name}")))

    def save_weights_for_sampler(self, name: str) -> Answer:
        path = self._keep(f"tinker://x/sampler_weights/{name}")
        return Answer(tinker.types.SaveWeightsForSamplerResponse(path=path))

    def save_weights_and_get_sampling_client(self) -> Answer:
        return Answer(SamplingClient(self.table.copy(), self.before))

    def _keep(self, path: str) -> str:
        self.saved[path] = self.table.copy(), self.moments, self.steps
        return path

    def forward(self, data, loss_fn, loss_fn_config=None) -> Answer:
        outputs, value = [], 0.0
        for datum in data:
            inputs_T, x = arrays(datum)
            logp_T = self.table.logprobs(inputs_T, x["target_tokens"])
            value += float(losses(loss_fn, logp_T, logp_T, x, loss_fn_config).sum())
            outputs.append({"logprobs": tinker.TensorData.from_numpy(logp_T.astype(np.float32))})
        return Answer(tinker.ForwardBackwardOutput("x", outputs, {"loss:sum": value}))

    def forward_backward(self, data, loss_fn, loss_fn_config=None) -> Answer:
        self.wire.append((loss_fn, loss_fn_config, len(data)))
        answer = self.forward(data, loss_fn, loss_fn_config)
        for datum in data:
            inputs_T, x = arrays(datum)
            targets_T = x["target_tokens"]
            slopes_T = slopes(loss_fn, self.table.logprobs(inputs_T, targets_T), x, loss_fn_config)
            self.gradient += self.table.gradient(inputs_T, targets_T, slopes_T)
        return answer

    def optim_step(self, adam: tinker.AdamParams) -> Answer:
        """Adam, its decay decoupled (Loshchilov & Hutter 2019)."""
        step, norm = self.steps, float(np.linalg.norm(self.gradient))
        g = self.gradient * (min(1.0, adam.grad_clip_norm / norm) if adam.grad_clip_norm and norm else 1.0)
        self.steps += 1
        first = adam.beta1 * self.moments[0] + (1 - adam.beta1) * g
        second = adam.beta2 * self.moments[1] + (1 - adam.beta2) * g**2
        self.moments = np.stack([first, second])
        move = first / (1 - adam.beta1**self.steps)
        move = move / (np.sqrt(second / (1 - adam.beta2**self.steps)) + adam.eps)
        self.table.logits -= adam.learning_rate * (move + adam.weight_decay * self.table.logits)
        self.gradient = np.zeros_like(self.gradient)
        wait = (lambda: self.before("optim_step", step)) if self.before is not None else None
        return Answer(tinker.OptimStepResponse(metrics={"grad_norm": norm}), wait)


def arrays(datum: tinker.Datum) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The input ids and the loss's inputs of a datum, float64 but for the targets."""
    x = {name: values.to_numpy() for name, values in datum.loss_fn_inputs.items()}
    x = {name: v if name == "target_tokens" else v.astype(np.float64) for name, v in x.items()}
    return np.array(datum.model_input.to_ints()), x


@chz.chz
class Tabular(BackendConfig):
    """A client given from outside, and the tokenizer of a folder."""

    client: Any
    folder: Path

    def connect(self, run_dir: Path) -> Any:
        return self.client

    def tokenizer(self, model: str) -> Any:
        return load_tokenizer(self.folder)
