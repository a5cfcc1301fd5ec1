"""Tinker's clients, in this process: the same methods, types and futures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tinker
import torch
from tinker.lib.public_interfaces.api_future import APIFuture, AwaitableConcurrentFuture

from cookbook.errors import BackendError, ConfigError
from cookbook.rendering import Tokenizer, load_tokenizer

from .decoding import Decoder, new_request
from .engine import Engine
from .llama import Llama, Lora
from .models import find_model
from .training import Learner

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """dtype: of the frozen weights and the products. token_budget: rows of one forward and backward
    pass, part of what a run's bits depend on. alpha: the LoRA's scale is alpha / rank."""

    dtype: torch.dtype
    token_budget: int
    alpha: float


class ServiceClient:
    """One engine; weights saved under `run_dir`, and found there and in its sibling folders."""

    def __init__(self, run_dir: Path, options: Options) -> None:
        self._run_dir, self._options = run_dir, options
        self._engine = Engine()
        self._models: dict[Path, tuple[Llama, Tokenizer]] = {}

    def create_lora_training_client(
        self, base_model: str, rank: int = 32, seed: int | None = None
    ) -> APIFuture[TrainingClient]:
        """A fresh LoRA on attention and MLP. Raises `BackendError` for a model that isn't there."""
        folder = find_model(base_model)

        def create() -> TrainingClient:
            if folder not in self._models:
                self._models[folder] = Llama(folder, self._options.dtype), load_tokenizer(folder)
            model, tokenizer = self._models[folder]
            if not 1 <= rank <= model.shape.hidden:
                raise ConfigError(
                    f"lora_rank={rank}: must be from 1 to the model's width, {model.shape.hidden}"
                )
            first = seed if seed is not None else torch.seed() & 0x7FFFFFFF
            learner = Learner(
                model, Lora.fresh(model.shape, rank, self._options.alpha, first), self._options.token_budget
            )
            return TrainingClient(self._engine, learner, tokenizer, self._run_dir)

        return AwaitableConcurrentFuture(self._engine.submit(create))

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


class TrainingClient:
    """Requests are carried out in the order of the calls. After one fails, all later ones fail with it:
    an optimizer step on half a gradient would go unnoticed."""

    def __init__(self, engine: Engine, learner: Learner, tokenizer: Tokenizer, run_dir: Path) -> None:
        self._engine, self._learner, self._tokenizer, self._run_dir = engine, learner, tokenizer, run_dir
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
        return self._tokenizer

    def forward_backward(
        self, data: list[tinker.Datum], loss_fn: str, loss_fn_config: dict[str, float] | None = None
    ) -> APIFuture[tinker.ForwardBackwardOutput]:
        """Adds the gradient of the loss, summed over tokens. `cross_entropy` and `importance_sampling`."""
        if loss_fn_config:
            raise BackendError(f"local/torch: {loss_fn} takes no loss_fn_config, got {loss_fn_config}")
        return self._submit(lambda: self._learner.forward_backward(data, loss_fn))

    def optim_step(self, optim_params: tinker.AdamParams) -> APIFuture[tinker.OptimStepResponse]:
        """One Adam step on the gradient since the last; the metric `grad_norm` is before clipping."""
        return self._submit(lambda: self._learner.optim_step(optim_params))

    def save_state(
        self, name: str, *, overwrite: bool = False
    ) -> APIFuture[tinker.types.SaveWeightsResponse]:
        """Weights and optimizer state, as tinker://<run>/weights/<name>, on disk in the run's folder.

        A run that goes on from a checkpoint meets the folders of its first try: `overwrite` is for them.
        """
        if not name or "/" in name or name.startswith("."):
            raise BackendError(f"save_state: {name!r} isn't a name; give one without slashes, like 'step-10'")

        def save() -> tinker.types.SaveWeightsResponse:
            self._learner.save(self._run_dir / "weights" / name, overwrite=overwrite)
            return tinker.types.SaveWeightsResponse(path=f"tinker://{self._run_dir.name}/weights/{name}")

        return self._submit(save)

    def load_state(self, path: str) -> APIFuture[None]:
        """The weights of a saved state, with a fresh optimizer."""
        return self._submit(lambda: self._learner.load(self._folder(path), optimizer=False))

    def load_state_with_optimizer(self, path: str) -> APIFuture[None]:
        """A saved state whole: training goes on as if it had never stopped."""
        return self._submit(lambda: self._learner.load(self._folder(path), optimizer=True))

    def _folder(self, path: str) -> Path:
        parts = path.removeprefix("tinker://").split("/")
        folder = self._run_dir.parent.joinpath(*parts)
        whole = path.startswith("tinker://") and len(parts) == 3 and (folder / "lora.safetensors").is_file()
        if not whole or ".." in parts:
            raise BackendError(
                f"no saved weights {path!r} under {self._run_dir.parent}; the form is "
                "tinker://<run>/weights/<name>"
            )
        return folder

    def save_weights_and_get_sampling_client(self) -> APIFuture[SamplingClient]:
        """A client that samples from the weights as they are after all requests before this one."""

        def snapshot() -> SamplingClient:
            model, lora = self._learner.model, self._learner.lora.snapshot()
            return SamplingClient(self._engine, Decoder(model, lora, self._tokenizer.decode))

        return self._submit(snapshot)


class SamplingClient:
    """Fixed weights. Calls made at the same time are decoded together."""

    def __init__(self, engine: Engine, decoder: Decoder) -> None:
        self._engine, self._decoder = engine, decoder

    def sample(
        self, prompt: tinker.ModelInput, num_samples: int, sampling_params: tinker.SamplingParams
    ) -> APIFuture[tinker.SampleResponse]:
        """`num_samples` sequences after one prefill, each with its tokens' log-probabilities in nats.

        The stop token is part of the tokens. Cancelling what awaits the future frees its rows.
        Raises `ConfigError` for parameters that can't be.
        """
        request = new_request(prompt, num_samples, sampling_params, self._decoder.model.shape)
        return AwaitableConcurrentFuture(self._engine.sample(self._decoder, request))
