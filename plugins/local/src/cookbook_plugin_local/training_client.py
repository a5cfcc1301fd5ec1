"""Tinker's `TrainingClient`, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import tinker
from tinker.lib.public_interfaces.api_future import APIFuture, AwaitableConcurrentFuture
from tinker.lib.public_interfaces.backcompat_sampling_client_future import BackcompatSamplingClientFuture
from tinker.lib.public_interfaces.custom_loss import LossHandle, check_loss_inputs, run_loss_handle

from cookbook.errors import BackendError, ConfigError

from . import states
from .losses import find_loss
from .machine import Base, Machine
from .sampling_client import SamplingClient, check_sampling
from .sdk import shaped_like
from .states import State

T = TypeVar("T")
CustomLoss = Callable[[list[tinker.Datum], list[Any]], tuple[Any, dict[str, float]]]


@dataclass(frozen=True)
class Run:
    """What a training client trains, beside the weights themselves.

    folder: where it saves, and its id. user_metadata: the script's notes on the run. session: what made
    it; a custom loss belongs to one. trained: as `State` has it.
    """

    folder: Path
    session: str
    user_metadata: Mapping[str, str]
    trained: tuple[str, ...]


@shaped_like(
    tinker.TrainingClient,
    refused={
        "save_weights_external": "there is no bucket of a service; `cookbook local export` writes files",
    },
)
class TrainingClient:
    """Requests are carried out in the order of the calls. After one fails, all later ones fail with it:
    an optimizer step on half a gradient would go unnoticed."""

    def __init__(self, machine: Machine, base: Base, state: State, run: Run) -> None:
        self._machine, self._base, self._run = machine, base, run
        self._learner = machine.learner(base, state)
        self._failure: Exception | None = None
        self.model_id = run.folder.name

    def _submit(self, job: Callable[[], T]) -> AwaitableConcurrentFuture[T]:
        def guarded() -> T:
            if self._failure is not None:
                raise BackendError(f"an earlier request of this client failed: {self._failure}")
            try:
                return job()
            except Exception as e:
                self._failure = e
                raise

        return self._machine.submit(guarded)

    # Training

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

    def forward_backward_custom(
        self,
        data: list[tinker.Datum],
        loss_fn: CustomLoss | LossHandle,
        *,
        loss_type_input: Literal["logprobs"] | None = None,
    ) -> APIFuture[tinker.ForwardBackwardOutput]:
        """Adds the gradient of a loss of your own: `loss_fn(data, logprobs)` gives (loss, metrics).

        logprobs: of each datum's targets, float32 tensors of their shape, from one forward pass. `loss_fn`
        is called in the engine's thread, so it must not wait for another request of this service.
        """
        if loss_type_input not in (None, "logprobs"):
            raise ConfigError(f"loss_type_input={loss_type_input!r}: the loss always receives 'logprobs'")
        if not data:
            raise ConfigError("forward_backward_custom: no data")
        function = self._traced(loss_fn, data) if isinstance(loss_fn, LossHandle) else loss_fn
        return self._submit(lambda: self._learner.forward_backward_custom(data, function))

    def _traced(self, loss: LossHandle, data: list[tinker.Datum]) -> CustomLoss:
        if loss.session_id != self._run.session:
            raise ConfigError(f"loss {loss.name!r} is of another service client; make it by this one")
        check_loss_inputs(loss, data)
        return lambda data, logprobs: run_loss_handle(loss, data, logprobs)

    def optim_step(
        self, optim_params: Any = None, *, adam_params: tinker.AdamParams | None = None
    ) -> APIFuture[tinker.OptimStepResponse]:
        """One Adam step on the gradient since the last; the metric `grad_norm` is before clipping.

        adam_params: the older name of optim_params.
        """
        if (optim_params is None) == (adam_params is None):
            raise ConfigError("optim_step: give tinker.AdamParams, once")
        params = optim_params if optim_params is not None else adam_params
        if not isinstance(params, tinker.AdamParams):
            raise ConfigError(f"optim_step: {type(params).__name__}; local/torch has tinker.AdamParams only")
        return self._submit(lambda: self._learner.optim_step(params))

    # Saving and loading

    def save_state(
        self,
        name: str,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: dict[str, str] | None = None,
    ) -> APIFuture[tinker.types.SaveWeightsResponse]:
        """Weights and optimizer state, as tinker://<run>/weights/<name>, on disk in the run's folder. A
        gradient that no optimizer step has used yet isn't kept. Nothing expires, whatever ttl_seconds.

        A run that goes on from a checkpoint meets the folders of its first try: `overwrite` is for them.
        The future raises `OSError`, with the file's name, where it can't be written.
        """
        folder = states.new_folder(self._run.folder, "weights", name)

        def save() -> tinker.types.SaveWeightsResponse:
            state = replace(self._state(user_metadata), moments=self._learner.moments)
            states.save(folder, state, overwrite=overwrite)
            return tinker.types.SaveWeightsResponse(path=states.path_of(folder))

        return self._submit(save)

    def save_weights_for_sampler(
        self, name: str, ttl_seconds: int | None = None, user_metadata: dict[str, str] | None = None
    ) -> APIFuture[tinker.types.SaveWeightsForSamplerResponse]:
        """Weights alone, as tinker://<run>/sampler_weights/<name>; what has that name is replaced."""
        folder = states.new_folder(self._run.folder, "sampler_weights", name)

        def save() -> tinker.types.SaveWeightsForSamplerResponse:
            states.save(folder, self._state(user_metadata), overwrite=True)
            return tinker.types.SaveWeightsForSamplerResponse(path=states.path_of(folder))

        return self._submit(save)

    def load_state(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[tinker.types.LoadWeightsResponse]:
        """Puts saved weights in the place of these, with a fresh optimizer; a gradient since the last step
        is dropped. The future raises `BackendError` for those of another model or rank."""
        return self._load(path, optimizer=False)

    def load_state_with_optimizer(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[tinker.types.LoadWeightsResponse]:
        """As `load_state`, and the optimizer goes on from the saved one."""
        return self._load(path, optimizer=True)

    def _load(self, path: str, *, optimizer: bool) -> APIFuture[tinker.types.LoadWeightsResponse]:
        def load() -> tinker.types.LoadWeightsResponse:
            _, state = self._machine.open(path, self._base.name, optimizer=optimizer)
            rank = self._learner.lora.rank
            if state.lora.rank != rank:
                raise BackendError(f"{path} is a LoRA of rank {state.lora.rank}, this client's is {rank}")
            self._learner = self._machine.learner(self._base, replace(state, trained=self._run.trained))
            return tinker.types.LoadWeightsResponse(path=path, model_id=self.model_id)

        return self._submit(load)

    def _state(self, user_metadata: Mapping[str, str] | None) -> State:
        return State(
            self._base.name,
            self._learner.lora,
            trained=self._run.trained,
            user_metadata=user_metadata,
            run_metadata=self._run.user_metadata,
        )

    # Sampling

    def save_weights_and_get_sampling_client(
        self,
        name: str | None = None,
        retry_config: Any = None,
        record_stability_info: bool = False,
        kind: Literal["snapshot", "inflight"] = "snapshot",
    ) -> BackcompatSamplingClientFuture:
        """A client that samples from the weights as they are after all requests before this one.

        kind: inflight clients may take on later weights, and here never do. `name` and `retry_config` have
        no effect: nothing is written, and nothing has to be tried again.
        """
        check_sampling(record_stability_info)
        if kind not in ("snapshot", "inflight"):
            raise ConfigError(f"kind={kind!r}: must be 'snapshot' or 'inflight'")

        def snapshot() -> Any:
            return SamplingClient(self._machine, self._base, self._learner.lora.snapshot())

        return BackcompatSamplingClientFuture(self._submit(snapshot))

    def create_sampling_client(
        self, model_path: str, retry_config: Any = None, record_stability_info: bool = False
    ) -> BackcompatSamplingClientFuture:
        """Samples from saved weights, of this run or another."""
        check_sampling(record_stability_info)

        def create() -> Any:
            base, state = self._machine.open(model_path)
            return SamplingClient(self._machine, base, state.lora)

        return BackcompatSamplingClientFuture(self._machine.submit(create))

    # What it is

    def get_info(self) -> tinker.types.GetInfoResponse:
        name = self._machine.called(self._base)
        data = tinker.types.ModelData(model_name=name, tokenizer_id=str(self._base.folder))
        return tinker.types.GetInfoResponse(
            model_data=data,
            model_id=self.model_id,
            is_lora=True,
            lora_rank=self._learner.lora.rank,
            model_name=name,
        )

    def get_tokenizer(self) -> Any:
        """The model's, of transformers' kind."""
        return self._base.transformers_tokenizer

    def get_console_url(self) -> str:
        """The run's folder: there is no console."""
        return self._run.folder.resolve().as_uri()

    def get_telemetry(self) -> None:
        """None: nothing is reported to anybody."""
