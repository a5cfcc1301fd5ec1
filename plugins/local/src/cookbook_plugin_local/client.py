"""Tinker's clients, in this process: the same methods, types and futures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tinker
import torch
from tinker.lib.public_interfaces.api_future import APIFuture, AwaitableConcurrentFuture

from cookbook.errors import BackendError, ConfigError
from cookbook.rendering import Tokenizer, load_tokenizer

from . import states
from .decoding import Decoder, new_request
from .engine import Engine
from .llama import Llama, Lora
from .losses import find_loss
from .models import find_model, lasting_name
from .scoring import Scorer, new_score_request
from .states import State
from .training import Learner

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """dtype: of the frozen weights and the products. token_budget: rows of one forward and backward
    pass, part of what a run's bits depend on. alpha: the LoRA's scale is alpha / rank."""

    dtype: torch.dtype
    token_budget: int
    alpha: float


@dataclass(frozen=True)
class _Base:
    """A frozen model. name: under which other processes find it too."""

    name: str
    model: Llama
    tokenizer: Tokenizer


class ServiceClient:
    """One engine; weights saved under `run_dir`, and found there and in its sibling folders."""

    def __init__(self, run_dir: Path, options: Options) -> None:
        self._run_dir, self._options = run_dir, options
        self._engine = Engine()
        self._bases: dict[Path, _Base] = {}

    def create_lora_training_client(
        self, base_model: str, rank: int = 32, seed: int | None = None
    ) -> APIFuture[TrainingClient]:
        """A fresh LoRA on attention and MLP. Raises `BackendError` for a model that isn't there."""
        folder = find_model(base_model)

        def create() -> TrainingClient:
            base = self._base(base_model, folder)
            shape = base.model.shape
            if not 1 <= rank <= shape.hidden:
                raise ConfigError(f"lora_rank={rank}: must be from 1 to the model's width, {shape.hidden}")
            first = seed if seed is not None else torch.seed() & 0x7FFFFFFF
            return self._training_client(base, Lora.fresh(shape, rank, self._options.alpha, first))

        return self._submit(create)

    def create_training_client_from_state(
        self, path: str, base_model: str | None = None
    ) -> APIFuture[TrainingClient]:
        """The weights of a saved state, of its rank and on its model, with a fresh optimizer.

        base_model: another place of the same model. The future raises `BackendError` for a path that
        leads nowhere, and for a model that isn't there or doesn't fit.
        """
        return self._submit(lambda: self._from_state(path, base_model, optimizer=False))

    def create_training_client_from_state_with_optimizer(
        self, path: str, base_model: str | None = None
    ) -> APIFuture[TrainingClient]:
        """A saved state whole: training goes on as if it had never stopped."""
        return self._submit(lambda: self._from_state(path, base_model, optimizer=True))

    def create_sampling_client(
        self, model_path: str | None = None, base_model: str | None = None
    ) -> APIFuture[SamplingClient]:
        """Samples from saved weights, or from the bare model.

        model_path: of `save_weights_for_sampler` or `save_state`. Raises `ConfigError` where neither is
        given; the future raises `BackendError` as that of `create_training_client_from_state` does.
        """
        if model_path is None and base_model is None:
            raise ConfigError("create_sampling_client: give model_path or base_model")

        def create() -> SamplingClient:
            if model_path is not None:
                base, state = self._open(model_path, base_model)
                lora = state.lora
            else:
                base = self._base(base_model or "")
                lora = Lora.fresh(base.model.shape, 1, self._options.alpha, seed=0).snapshot()
            return SamplingClient(self._engine, base, lora)

        return self._submit(create)

    def create_rest_client(self) -> RestClient:
        """Looks after what is saved."""
        return RestClient(self._engine, self._run_dir.parent)

    def close(self, status: str, detail: str | None = None) -> APIFuture[None]:
        """Ends the engine's thread. There is no session to mark, so status and detail go nowhere."""
        self._engine.close()
        done: Future[None] = Future()
        done.set_result(None)
        return AwaitableConcurrentFuture(done)

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.close()

    def _submit(self, job: Callable[[], T]) -> APIFuture[T]:
        return AwaitableConcurrentFuture(self._engine.submit(job))

    def _base(self, name: str, folder: Path | None = None) -> _Base:
        folder = (folder or find_model(name)).resolve()  # one model, however its folder was named
        if folder not in self._bases:
            model = Llama(folder, self._options.dtype)
            self._bases[folder] = _Base(lasting_name(name), model, load_tokenizer(folder))
        return self._bases[folder]

    def _open(self, path: str, base_model: str | None, *, optimizer: bool = False) -> tuple[_Base, State]:
        state = states.read(self._run_dir.parent, path, optimizer=optimizer)
        name = base_model or state.base_model
        if not name:
            raise BackendError(f"{path} doesn't say which model it was trained on; give base_model")
        base = self._base(name)
        return base, state.fitting(base.model.shape)

    def _from_state(self, path: str, base_model: str | None, *, optimizer: bool) -> TrainingClient:
        base, state = self._open(path, base_model, optimizer=optimizer)
        return self._training_client(base, state.lora, state.moments)

    def _training_client(
        self, base: _Base, lora: Lora, moments: Mapping[str, torch.Tensor] | None = None
    ) -> TrainingClient:
        learner = Learner(base.model, lora, self._options.token_budget, moments)
        return TrainingClient(self._engine, learner, base, self._run_dir)


class TrainingClient:
    """Requests are carried out in the order of the calls. After one fails, all later ones fail with it:
    an optimizer step on half a gradient would go unnoticed."""

    def __init__(self, engine: Engine, learner: Learner, base: _Base, run_dir: Path) -> None:
        self._engine, self._learner, self._base, self._run_dir = engine, learner, base, run_dir
        self._failure: Exception | None = None

    def _submit(self, job: Callable[[], T]) -> APIFuture[T]:
        def guarded() -> T:
            if self._failure is not None:
                raise BackendError(f"an earlier request of this client failed: {self._failure}")
            try:
                return job()
            except Exception as e:
                self._failure = e
                raise

        return AwaitableConcurrentFuture(self._engine.submit(guarded))

    def get_tokenizer(self) -> Tokenizer:
        return self._base.tokenizer

    def forward(
        self,
        data: list[tinker.Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> APIFuture[tinker.ForwardBackwardOutput]:
        """What `forward_backward` gives, with the log-probabilities of all targets, and no gradient."""
        loss = find_loss(loss_fn, loss_fn_config)
        return self._submit(lambda: self._learner.forward(data, loss))

    def forward_backward(
        self,
        data: list[tinker.Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> APIFuture[tinker.ForwardBackwardOutput]:
        """Adds the gradient of a loss of `losses.LOSSES`, summed over tokens.

        Raises `BackendError` at once for a loss or a setting that isn't there.
        """
        loss = find_loss(loss_fn, loss_fn_config)
        return self._submit(lambda: self._learner.forward_backward(data, loss))

    def optim_step(self, optim_params: tinker.AdamParams) -> APIFuture[tinker.OptimStepResponse]:
        """One Adam step on the gradient since the last; the metric `grad_norm` is before clipping."""
        return self._submit(lambda: self._learner.optim_step(optim_params))

    def save_state(
        self, name: str, ttl_seconds: int | None = None, overwrite: bool = False
    ) -> APIFuture[tinker.types.SaveWeightsResponse]:
        """Weights and optimizer state, as tinker://<run>/weights/<name>, on disk in the run's folder. A
        gradient that no optimizer step has used yet isn't kept. Nothing expires, whatever ttl_seconds.

        A run that goes on from a checkpoint meets the folders of its first try: `overwrite` is for them.
        The future raises `OSError`, with the file's name, where it can't be written.
        """
        folder = states.new_folder(self._run_dir, "weights", name)

        def save() -> tinker.types.SaveWeightsResponse:
            state = State(self._base.name, self._learner.lora, self._learner.moments)
            states.save(folder, state, overwrite=overwrite)
            return tinker.types.SaveWeightsResponse(path=states.path_of(folder))

        return self._submit(save)

    def save_weights_for_sampler(
        self, name: str, ttl_seconds: int | None = None
    ) -> APIFuture[tinker.types.SaveWeightsForSamplerResponse]:
        """Weights alone, as tinker://<run>/sampler_weights/<name>; what has that name is replaced."""
        folder = states.new_folder(self._run_dir, "sampler_weights", name)

        def save() -> tinker.types.SaveWeightsForSamplerResponse:
            states.save(folder, State(self._base.name, self._learner.lora), overwrite=True)
            return tinker.types.SaveWeightsForSamplerResponse(path=states.path_of(folder))

        return self._submit(save)

    def save_weights_and_get_sampling_client(self) -> APIFuture[SamplingClient]:
        """A client that samples from the weights as they are after all requests before this one."""

        def snapshot() -> SamplingClient:
            return SamplingClient(self._engine, self._base, self._learner.lora.snapshot())

        return self._submit(snapshot)


class SamplingClient:
    """Fixed weights. Calls made at the same time are computed together."""

    def __init__(self, engine: Engine, base: _Base, lora: Lora) -> None:
        self._engine = engine
        self._decoder = Decoder(base.model, lora, base.tokenizer.decode, engine.place())
        self._scorer = Scorer(self._decoder)

    def sample(
        self, prompt: tinker.ModelInput, num_samples: int, sampling_params: tinker.SamplingParams
    ) -> APIFuture[tinker.SampleResponse]:
        """`num_samples` sequences after one prefill, each with its tokens' log-probabilities in nats.

        The stop token is part of the tokens. Cancelling what awaits the future frees its rows.
        Raises `ConfigError` for parameters that can't be.
        """
        request = new_request(prompt, num_samples, sampling_params, self._decoder.model.shape)
        return AwaitableConcurrentFuture(self._engine.serve(self._decoder, request))

    def compute_logprobs(
        self, prompt: tinker.ModelInput, prompt_logprobs_last_n: int | None = None
    ) -> APIFuture[list[float | None]]:
        """Each token's log-probability (nats, at temperature 1) after those before it; the first has None.

        prompt_logprobs_last_n: only the last N, all before have None. Raises `ConfigError` for what
        can't be.
        """
        request = new_score_request(prompt, prompt_logprobs_last_n, self._decoder.model.shape)
        return AwaitableConcurrentFuture(self._engine.serve(self._scorer, request))


class RestClient:
    """What is saved, by path."""

    def __init__(self, engine: Engine, runs: Path) -> None:
        self._engine, self._runs = engine, runs

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Removes weights or sampler weights, after all requests before this one. The future raises
        `BackendError` where there are none."""
        return AwaitableConcurrentFuture(self._engine.submit(lambda: states.delete(self._runs, tinker_path)))
