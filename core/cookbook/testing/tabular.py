"""A policy that is a table, behind tinker's clients: exact gradients, in numpy, a run in seconds.

A few letters are all that it can say. What comes next is softmax(logits[row]) over them and the end of the
reply, where the row is that of what came before: of the whole prompt and the reply so far, so that it can
learn another answer for each prompt by heart (`sees="all"`); or of the last token alone.

    cookbook run core/rl env=my_module:MyEnv backend=cookbook.testing:Tabular \\
        backend.letters=0123456789 model=table renderer=core/chatml lr=0.1 max_tokens=4

In a test the same is `assert learn(MyEnv(), "0123456789")[-1] > 0.9`.

It shows in seconds whether the loop can learn what an environment rewards. It can't show that a language
model does: nothing carries over from one prompt to another, so held-out tasks stay at chance.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import chz
import numpy as np
import tinker

from ..errors import BackendError, ConfigError
from ..kinds import BackendConfig, EnvConfig
from ..rendering import Tokenizer
from ..rl import RLConfig
from ..runs import Run, read_rows
from .tokens import byte_tokenizer

ROWS = 1 << 12
"""Rows of a table. A context's row is a hash of it; two that share one are told apart by nothing."""
_HASH = 6364136223846793005, 1442695040888963407  # of Knuth's linear congruential generator, modulo 2**64
LOSSES = ("cross_entropy", "importance_sampling", "ppo", "cispo", "gspo", "dro")
Inputs = Mapping[str, np.ndarray]
Settings = Mapping[str, float] | None


def losses(name: str, logp_T: np.ndarray, held_T: np.ndarray, x: Inputs, config: Settings) -> np.ndarray:
    """Each token's loss, which the wire sums. logp_T: log pi, nats; held_T: the same where the formula stops
    the gradient. x: the datum's inputs, with mu the sampler's pi and a the advantages; r = pi / mu.

    cross_entropy -w log pi; importance_sampling -r a; ppo -min(r a, clip(r) a) (Schulman et al. 2017); cispo
    -stop(clip(r)) a log pi (MiniMax-M1 2025); gspo, as ppo with the geometric mean of r over the sequence
    (Zheng et al. 2025, their token form); dro -(a log pi - beta/2 log^2 r) (Richemond et al. 2024).
    """
    if name == "cross_entropy":
        return -x["weights"] * logp_T
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


def slopes(name: str, logp_T: np.ndarray, x: Inputs, config: Settings) -> np.ndarray:
    """The derivative of each token's loss in its log pi, by hand."""
    if name == "cross_entropy":
        return -x["weights"]
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
    """logits: float64 [ROWS, K], by the row of what came before and the next token's place among `choices`.

    A target that is none of the choices is an observation: its log-probability is 0, and it has no gradient.
    """

    choices: tuple[int, ...]
    logits: np.ndarray
    sees: Literal["all", "last"] = "last"

    @classmethod
    def uniform(cls, choices: Sequence[int], sees: Literal["all", "last"] = "last") -> Table:
        return cls(tuple(choices), np.zeros((ROWS, len(choices))), sees)

    def copy(self) -> Table:
        return Table(self.choices, self.logits.copy(), self.sees)

    def rows(self, tokens_T: Sequence[int]) -> np.ndarray:
        """For each token the row of what comes after it."""
        if self.sees == "last":
            return np.asarray(tokens_T)
        rows, state = [], 0
        for token in tokens_T:
            state = self.after(state, token)
            rows.append(self.row(state))
        return np.array(rows)

    def after(self, state: int, token: int) -> int:
        """The state, a hash of 64 bits or the last token, once a token came."""
        return token if self.sees == "last" else (state * _HASH[0] + token + _HASH[1]) % (1 << 64)

    def row(self, state: int) -> int:
        return state if self.sees == "last" else (state >> 32) % ROWS  # the low bits of the hash are weak

    def log_softmax(self, rows_T: np.ndarray | int) -> np.ndarray:
        logits = self.logits[rows_T]
        logits = logits - logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def logprobs(self, inputs_T: np.ndarray, targets_T: np.ndarray) -> np.ndarray:
        """log pi of each target after the inputs up to its own place, nats."""
        hot_TK = targets_T[:, None] == np.array(self.choices)
        return np.where(hot_TK, self.log_softmax(self.rows(inputs_T.tolist())), 0.0).sum(-1)

    def gradient(self, inputs_T: np.ndarray, targets_T: np.ndarray, slopes_T: np.ndarray) -> np.ndarray:
        """Of sum_t slopes[t] log pi(target[t]), [ROWS, K], as d log softmax(z)[k] / dz is
        onehot(k) - softmax(z)."""
        gradient, rows_T = np.zeros_like(self.logits), self.rows(inputs_T.tolist())
        hot_TK = targets_T[:, None] == np.array(self.choices)
        slopes_T = np.where(hot_TK.any(-1), slopes_T, 0.0)
        np.add.at(gradient, rows_T, slopes_T[:, None] * (hot_TK - np.exp(self.log_softmax(rows_T))))
        return gradient

    def draw(self, row: int, uniform: float, temperature: float) -> tuple[int, float]:
        """A token by its place in [0, 1), or the likeliest at temperature 0; its log-probability at 1."""
        logp_K = self.log_softmax(row)
        k = int(logp_K.argmax())
        if temperature:
            p_K = np.exp((logp_K - logp_K.max()) / temperature)
            k = int(np.searchsorted(p_K.cumsum() / p_K.sum(), uniform, side="right"))
        k = min(k, len(self.choices) - 1)
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


@dataclass
class TableSampler:
    """Tinker's sampling client over a table that doesn't change."""

    table: Table

    async def sample(
        self, prompt: tinker.ModelInput, num_samples: int, sampling_params: tinker.SamplingParams
    ) -> tinker.SampleResponse:
        """A pure function of the table, the prompt and the seed. Raises `BackendError` where the stop isn't
        token ids."""
        await asyncio.sleep(0)
        stops = sampling_params.stop or []
        if isinstance(stops, str) or any(isinstance(stop, str) for stop in stops):
            raise BackendError("a table stops at tokens, not at texts; renderer=core/chatml has such a stop")
        state, seed = 0, sampling_params.seed
        for token in prompt.to_ints():
            state = self.table.after(state, token)
        randoms = [np.random.default_rng(None if seed is None else (seed, i)) for i in range(num_samples)]
        return tinker.SampleResponse(
            sequences=[self._sequence(state, random, stops, sampling_params) for random in randoms]
        )

    def _sequence(
        self, state: int, random: np.random.Generator, stops: Sequence[Any], how: tinker.SamplingParams
    ) -> tinker.SampledSequence:
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < (how.max_tokens or ROWS) and not (tokens and tokens[-1] in stops):
            token, logp = self.table.draw(self.table.row(state), random.random(), how.temperature)
            state = self.table.after(state, token)
            tokens.append(token)
            logprobs.append(logp)
        return tinker.SampledSequence(
            stop_reason="stop" if tokens[-1] in stops else "length",
            sequence_id="table",
            tokens_np=np.array(tokens, dtype=np.int32),
            logprobs_np=np.array(logprobs, dtype=np.float32),
        )

    def compute_logprobs(self, prompt: tinker.ModelInput) -> Answer:
        ids_T = np.array(prompt.to_ints())
        return Answer([None, *self.table.logprobs(ids_T[:-1], ids_T[1:]).tolist()])


@dataclass
class TableClient:
    """Tinker's service, training and rest client in one. What is saved is kept in memory."""

    table: Table
    steps: int = field(default=0, init=False)  # of the optimizer

    def __post_init__(self) -> None:
        self.base = self.table.copy()
        self.moments = np.zeros((2, *self.table.logits.shape))
        self.summed = np.zeros_like(self.table.logits)  # the gradient since the last step
        self.saved: dict[str, tuple[Table, np.ndarray, int]] = {}

    def __enter__(self) -> TableClient:
        return self

    def __exit__(self, *error: object) -> None: ...

    def sampler(self, table: Table) -> TableSampler:
        """What samples from these weights."""
        return TableSampler(table)

    def create_lora_training_client(self, model: str, rank: int = 32, seed: int | None = None) -> Answer:
        """The table is trained whole; rank and seed have no meaning here."""
        return Answer(self)

    def create_training_client_from_state_with_optimizer(self, path: str) -> Answer:
        table, self.moments, self.steps = self._kept(path)
        self.table = table.copy()
        return Answer(self)

    def create_training_client_from_state(self, path: str) -> Answer:
        self.table = self._kept(path)[0].copy()
        return Answer(self)

    def create_sampling_client(self, model_path: str | None = None, base_model: str | None = None) -> Answer:
        table = self._kept(model_path)[0] if model_path else self.base
        return Answer(self.sampler(table.copy()))

    def create_rest_client(self) -> TableClient:
        return self

    def delete_checkpoint_from_tinker_path(self, path: str) -> Answer:
        self.saved.pop(path, None)
        return Answer(None)

    def save_state(self, name: str, overwrite: bool = False) -> Answer:
        return Answer(tinker.types.SaveWeightsResponse(path=self._keep(f"tinker://table/weights/{name}")))

    def save_weights_for_sampler(self, name: str) -> Answer:
        path = self._keep(f"tinker://table/sampler_weights/{name}")
        return Answer(tinker.types.SaveWeightsForSamplerResponse(path=path))

    def save_weights_and_get_sampling_client(self) -> Answer:
        return Answer(self.sampler(self.table.copy()))

    def _keep(self, path: str) -> str:
        self.saved[path] = self.table.copy(), self.moments, self.steps
        return path

    def _kept(self, path: str) -> tuple[Table, np.ndarray, int]:
        if path not in self.saved:
            raise BackendError(f"{path} isn't there: a table is kept in memory only; run it anew")
        return self.saved[path]

    def forward(self, data: Sequence[tinker.Datum], loss_fn: str, loss_fn_config: Settings = None) -> Answer:
        if loss_fn not in LOSSES:
            raise BackendError(f"a table has no loss {loss_fn!r}; it has {', '.join(LOSSES)}")
        outputs, value = [], 0.0
        for datum in data:
            inputs_T, x = arrays(datum)
            logp_T = self.table.logprobs(inputs_T, x["target_tokens"])
            value += float(losses(loss_fn, logp_T, logp_T, x, loss_fn_config).sum())
            outputs.append({"logprobs": tinker.TensorData.from_numpy(logp_T.astype(np.float32))})
        return Answer(
            tinker.ForwardBackwardOutput(
                loss_fn_output_type="logprobs", loss_fn_outputs=outputs, metrics={"loss:sum": value}
            )
        )

    def forward_backward(
        self, data: Sequence[tinker.Datum], loss_fn: str, loss_fn_config: Settings = None
    ) -> Answer:
        answer = self.forward(data, loss_fn, loss_fn_config)
        for datum in data:
            inputs_T, x = arrays(datum)
            targets_T = x["target_tokens"]
            slopes_T = slopes(loss_fn, self.table.logprobs(inputs_T, targets_T), x, loss_fn_config)
            self.summed += self.table.gradient(inputs_T, targets_T, slopes_T)
        return answer

    def optim_step(self, adam: tinker.AdamParams) -> Answer:
        """Adam (Kingma & Ba 2015), its decay decoupled (Loshchilov & Hutter 2019)."""
        norm = float(np.linalg.norm(self.summed))
        g = self.summed * (min(1.0, adam.grad_clip_norm / norm) if adam.grad_clip_norm and norm else 1.0)
        self.steps += 1
        first = adam.beta1 * self.moments[0] + (1 - adam.beta1) * g
        second = adam.beta2 * self.moments[1] + (1 - adam.beta2) * g**2
        self.moments = np.stack([first, second])
        move = first / (1 - adam.beta1**self.steps)
        move = move / (np.sqrt(second / (1 - adam.beta2**self.steps)) + adam.eps)
        self.table.logits -= adam.learning_rate * (move + adam.weight_decay * self.table.logits)
        self.summed = np.zeros_like(self.summed)
        return Answer(tinker.OptimStepResponse(metrics={"grad_norm": norm}))


def arrays(datum: tinker.Datum) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The input ids and the loss's inputs of a datum, float64 but for the targets."""
    x = {name: values.to_numpy() for name, values in datum.loss_fn_inputs.items()}
    x = {name: v if name == "target_tokens" else v.astype(np.float64) for name, v in x.items()}
    return np.array(datum.model_input.to_ints()), x


@chz.chz(typecheck=True)
class Tabular(BackendConfig):
    """A table that says a few letters, and learns which; any model name is right."""

    default_model = "table"

    letters: str = chz.field(default="0123456789", doc="what it can say, besides the end of a reply")
    sees: Literal["all", "last"] = chz.field(
        default="all", doc="what the next letter depends on: all that came before, or its last token"
    )

    @chz.validate
    def _check(self) -> None:
        if not self.letters or not self.letters.isascii() or len(set(self.letters)) < len(self.letters):
            raise ConfigError(f"letters={self.letters!r}: must be different ASCII letters, 0123456789 say")

    def connect(self, run_dir: Path) -> Any:
        tokenizer = byte_tokenizer()
        choices = [*tokenizer.encode(self.letters), tokenizer.control("<|im_end|>")]
        return TableClient(Table.uniform(choices, self.sees))

    def tokenizer(self, model: str) -> Tokenizer:
        return byte_tokenizer()


def learn(env: EnvConfig, letters: str, **options: Any) -> list[float]:
    """The mean reward of each step of a run on a table that says these letters; NaN where none had a verdict.

    options: of the run, `RLConfig`'s; by default 40 steps of 4 groups of 8 replies of 4 tokens, lr 0.2.
    The run leaves nothing on disk. Raises what it raises.
    """
    small = {"steps": 40, "groups_per_step": 4, "group_size": 8, "max_tokens": 4, "lr": 0.2, "eval_every": 0}
    table = {"backend": Tabular(letters=letters), "model": "table", "renderer": "core/chatml"}
    config = RLConfig(**{"env": env, **table, **small, **options})
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "learn", {})
        try:
            asyncio.run(config.run(run))
        finally:
            run.end("done")  # closes its files
        return [float(row.get("reward", math.nan)) for row in read_rows(run.folder)]
