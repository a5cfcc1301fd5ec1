"""Tinker's `ServiceClient`, in this process: the same methods, types and futures."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import tinker
import torch
from tinker.lib.public_interfaces.api_future import APIFuture
from tinker.lib.public_interfaces.backcompat_sampling_client_future import BackcompatSamplingClientFuture
from tinker.lib.public_interfaces.backcompat_training_client_future import BackcompatTrainingClientFuture
from tinker.lib.public_interfaces.custom_loss import LossHandle, trace_loss

from cookbook.errors import ConfigError
from cookbook.runs import runs_dir

from .backend import TorchBackend
from .llama import Lora
from .machine import Base, Machine, Options
from .rest import RestClient, capabilities
from .sampling_client import SamplingClient, check_sampling
from .sdk import at_once, shaped_like
from .states import PARTS, State
from .training_client import Run, TrainingClient


@shaped_like(
    tinker.ServiceClient,
    refused={
        "copy_weights": "nothing is shared between accounts; copy the folder of the run",
        "holder": "there is no connection to a service",
    },
)
class ServiceClient:
    """One engine. Weights are saved in folders of runs: `run_dir`, or where that isn't given a new folder
    for each training client, beside each other in $COOKBOOK_RUNS or ./runs. What is saved there, by this
    process or an earlier one, is found by its tinker:// path.

    Takes tinker's arguments. `user_metadata` is kept with what is saved; project_id, display_name,
    base_url, api_key and default_headers_overrides have no meaning on one machine and no effect.
    options: of the engine; by default those of `backend=local/torch`.
    """

    aliases: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Folders of models, by the id under which scripts ask for them."""

    def __init__(
        self,
        user_metadata: dict[str, str] | None = None,
        project_id: str | None = None,
        *,
        display_name: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        default_headers_overrides: Mapping[str, str] | None = None,
        run_dir: Path | None = None,
        options: Options | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs:  # as the SDK does
            line = f"ServiceClient ignores unsupported arguments: {', '.join(sorted(kwargs))}"
            warnings.warn(line, FutureWarning, stacklevel=2)
        runs = run_dir.parent if run_dir is not None else runs_dir().absolute()
        self._run_dir, self._metadata = run_dir, user_metadata or {}
        self._machine = Machine(runs, options or TorchBackend().options(), self.aliases)
        self._session = secrets.token_hex(8)  # what a custom loss belongs to

    # Clients

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: dict[str, str] | None = None,
        optimizer: tinker.types.OptimizerConfig | None = None,
    ) -> BackcompatTrainingClientFuture:
        """A fresh LoRA on attention and MLP, or one of them. Raises `BackendError` for a model that isn't
        there, and `ConfigError` for an optimizer that isn't Adam.

        train_unembed: has no effect, though the SDK's default is True: the unembedding is never trained.
        """
        _check_optimizer(optimizer)
        trained = tuple(part for part, on in zip(PARTS, (train_attn, train_mlp), strict=True) if on)
        if not trained:
            raise ConfigError("train_attn or train_mlp must be True: local/torch trains no unembedding")
        folder = self._machine.find(base_model)

        def create() -> TrainingClient:
            base = self._machine.base(base_model, folder)
            shape = base.model.shape
            if not 1 <= rank <= shape.hidden:
                raise ConfigError(f"lora_rank={rank}: must be from 1 to the model's width, {shape.hidden}")
            first = seed if seed is not None else torch.seed() & 0x7FFFFFFF
            lora = Lora.fresh(shape, rank, self._machine.options.alpha, first)
            return self._training_client(base, State(base.name, lora, trained=trained), user_metadata)

        return self._training_future(create)

    def create_training_client_from_state(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        weights_access_token: str | None = None,
        optimizer: tinker.types.OptimizerConfig | None = None,
    ) -> BackcompatTrainingClientFuture:
        """The weights of a saved state, of its rank and on its model, with a fresh optimizer.

        base_model: another place of the same model. The future raises `BackendError` for a path that
        leads nowhere, and for a model that isn't there or doesn't fit.
        """
        _check_optimizer(optimizer)
        return self._from_state(path, base_model, user_metadata, optimizer=False)

    def create_training_client_from_state_with_optimizer(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        weights_access_token: str | None = None,
    ) -> BackcompatTrainingClientFuture:
        """A saved state whole: training goes on as if it had never stopped."""
        return self._from_state(path, base_model, user_metadata, optimizer=True)

    def create_sampling_client(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: Any = None,
        record_stability_info: bool = False,
    ) -> BackcompatSamplingClientFuture:
        """Samples from saved weights, or from the bare model.

        model_path: of `save_weights_for_sampler` or `save_state`. Raises `ConfigError` where neither is
        given; the future raises `BackendError` as that of `create_training_client_from_state` does.
        """
        check_sampling(record_stability_info)
        if model_path is None and base_model is None:
            raise ConfigError("create_sampling_client: give model_path or base_model")
        machine = self._machine

        def create() -> Any:
            if model_path is not None:
                base, state = machine.open(model_path, base_model)
                return SamplingClient(machine, base, state.lora)
            base = machine.base(base_model or "")
            return SamplingClient(machine, base, machine.bare(base))

        return BackcompatSamplingClientFuture(machine.submit(create))

    def create_rest_client(self) -> RestClient:
        """Looks after what is saved, in its turn among this client's requests."""
        return RestClient(self._machine.engine, runs=self._machine.runs, aliases=self.aliases)

    def create_custom_loss(
        self, fn: Callable[..., Any], input_ranks: Mapping[str, Any]
    ) -> APIFuture[LossHandle]:
        """A loss that `torch.fx` has traced, for `forward_backward_custom` of this client's clients."""
        return at_once(lambda: trace_loss(fn, input_ranks, self._session))

    # The service itself

    def get_server_capabilities(self) -> tinker.types.GetServerCapabilitiesResponse:
        """The models that need no download: the embedded one, where it is set up, and the aliases."""
        return capabilities(self.aliases)

    def get_console_url(self) -> str:
        """The folder of the runs: there is no console."""
        return self._machine.runs.resolve().as_uri()

    def get_telemetry(self) -> None:
        """None: nothing is reported to anybody."""

    def close(
        self, status: Literal["success", "errored", "interrupted"], detail: str | None = None
    ) -> APIFuture[None]:
        """Ends the engine's thread. There is no session to mark, so status and detail go nowhere."""
        return at_once(self._machine.engine.close)

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *error: object) -> None:
        self._machine.engine.close()

    def _from_state(
        self, path: str, base_model: str | None, user_metadata: dict[str, str] | None, *, optimizer: bool
    ) -> BackcompatTrainingClientFuture:
        def create() -> TrainingClient:
            base, state = self._machine.open(path, base_model, optimizer=optimizer)
            return self._training_client(base, state, user_metadata)

        return self._training_future(create)

    def _training_client(
        self, base: Base, state: State, user_metadata: Mapping[str, str] | None
    ) -> TrainingClient:
        folder = self._run_dir or self._machine.new_run()
        metadata = {**self._metadata, **(user_metadata or {})}
        run = Run(folder, self._session, metadata, state.trained)
        return TrainingClient(self._machine, base, state, run)

    def _training_future(self, create: Callable[[], TrainingClient]) -> BackcompatTrainingClientFuture:
        job: Callable[[], Any] = create  # the SDK's class of futures is told its own clients
        return BackcompatTrainingClientFuture(self._machine.submit(job))


def _check_optimizer(optimizer: tinker.types.OptimizerConfig | None) -> None:
    if optimizer is not None and not isinstance(optimizer, tinker.AdamOptimizerConfig):
        raise ConfigError(f"optimizer={optimizer.type!r}: local/torch has Adam only; leave it out")
