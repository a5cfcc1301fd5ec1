"""Tinker's `RestClient` on the folders of runs: listing, info, deletion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

import tinker
from tinker import types
from tinker.lib.public_interfaces.api_future import APIFuture, AwaitableConcurrentFuture

from cookbook.runs import runs_dir

from . import states
from .engine import Engine
from .machine import called
from .models import EMBEDDED, context_length, embedded_folder, missing_files
from .sdk import ServiceError, at_once, shaped_like

T = TypeVar("T")
Scope = Literal["owned", "accessible"]

_SESSIONS = "there are no sessions; list_training_runs shows what was saved"
_ACCOUNT = "there is no account on one machine"
_PUBLIC = "nothing is shared from one machine; copy the folder of the run"


@shaped_like(
    tinker.RestClient,
    refused={
        "assign_session_project": _SESSIONS,
        "export_session_trace": _SESSIONS,
        "get_session": _SESSIONS,
        "list_sessions": _SESSIONS,
        "search_sessions": _SESSIONS,
        "get_sampler": "sampling clients live in their process; nothing lists them",
        "get_audit_log": _ACCOUNT,
        "get_billing_usage": _ACCOUNT,
        "get_current_checkpoint_storage_usage": _ACCOUNT,
        "whoami": _ACCOUNT,
        "copy_weights": _PUBLIC,
        "publish_checkpoint_from_tinker_path": _PUBLIC,
        "unpublish_checkpoint_from_tinker_path": _PUBLIC,
        "get_external_weights_urls": "there is no bucket of a service; `cookbook local export` writes files",
    },
)
class RestClient:
    """What is saved, in tinker's own types. A run is there from its first save on.

    From a service client, requests have their turn among its others; alone, they are done at once.
    base_url, api_key and access scopes have no meaning on one machine and no effect.
    """

    aliases: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """As `ServiceClient.aliases`."""

    def __init__(
        self,
        _holder: Engine | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        runs: Path | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._engine, self._runs = _holder, runs or runs_dir().absolute()
        self._aliases = self.aliases if aliases is None else aliases

    def _submit(self, job: Callable[[], T]) -> APIFuture[T]:
        return at_once(job) if self._engine is None else AwaitableConcurrentFuture(self._engine.submit(job))

    # Runs

    def list_training_runs(
        self, limit: int = 20, offset: int = 0, access_scope: Scope = "owned", project_id: str | None = None
    ) -> APIFuture[types.TrainingRunsResponse]:
        """Those with saved weights, the last to save first."""

        def find() -> types.TrainingRunsResponse:
            names = {folder.parent.parent.name for folder in states.folders(self._runs)}
            runs = sorted((self._run(name) for name in names), key=lambda run: run.last_request_time)
            return types.TrainingRunsResponse(
                training_runs=runs[::-1][offset : offset + limit], cursor=_cursor(offset, limit, runs)
            )

        return self._submit(find)

    def get_training_run(
        self, training_run_id: str, access_scope: Scope = "owned"
    ) -> APIFuture[types.TrainingRun]:
        """The future raises `ServiceError` for a run that isn't there, or that has saved nothing."""
        return self._submit(lambda: self._run(training_run_id))

    def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: Scope = "owned"
    ) -> APIFuture[types.TrainingRun]:
        """The run whose weights these are."""
        return self._submit(lambda: self._run(states.find(self._runs, tinker_path).parent.parent.name))

    def _run(self, name: str) -> types.TrainingRun:
        kept = self._checkpoints(name)
        newest = states.facts(states.find(self._runs, kept[0].tinker_path))

        def last(kind: str) -> types.Checkpoint | None:
            return next((each for each in kept if each.checkpoint_type == kind), None)

        return types.TrainingRun(
            training_run_id=name,
            base_model=called(newest["base_model"], self._aliases),
            model_owner="local",
            is_lora=True,
            lora_rank=newest["rank"],
            last_request_time=kept[0].time,
            last_checkpoint=last("training"),
            last_sampler_checkpoint=last("sampler"),
            user_metadata=newest["run_metadata"],
        )

    # Checkpoints

    def list_checkpoints(self, training_run_id: str) -> APIFuture[types.CheckpointsListResponse]:
        """The newest first. The future raises `ServiceError` as that of `get_training_run` does."""
        return self._submit(
            lambda: types.CheckpointsListResponse(checkpoints=self._checkpoints(training_run_id))
        )

    def list_user_checkpoints(
        self, limit: int = 100, offset: int = 0
    ) -> APIFuture[types.CheckpointsListResponse]:
        """Of all runs, the newest first."""

        def find() -> types.CheckpointsListResponse:
            kept = _newest_first(states.folders(self._runs))
            return types.CheckpointsListResponse(
                checkpoints=kept[offset : offset + limit], cursor=_cursor(offset, limit, kept)
            )

        return self._submit(find)

    def _checkpoints(self, run: str) -> list[types.Checkpoint]:
        kept = [f for f in states.folders(self._runs) if f.parent.parent.name == run]
        if not kept:
            raise ServiceError(
                f"no training run {run!r} with saved weights under {self._runs}; list_training_runs shows all"
            )
        return _newest_first(kept)

    def get_weights_info_by_tinker_path(self, tinker_path: str) -> APIFuture[types.WeightsInfoResponse]:
        """What saved weights are of."""

        def find() -> types.WeightsInfoResponse:
            facts = states.facts(states.find(self._runs, tinker_path))
            return types.WeightsInfoResponse(
                base_model=called(facts["base_model"], self._aliases),
                is_lora=True,
                lora_rank=facts["rank"],
                train_unembed=False,
                train_mlp="mlp" in facts["trained"],
                train_attn="attn" in facts["trained"],
            )

        return self._submit(find)

    def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> APIFuture[None]:
        """As `delete_checkpoint_from_tinker_path`; checkpoint_id: weights/<name>, or sampler_weights."""
        return self.delete_checkpoint_from_tinker_path(f"tinker://{training_run_id}/{checkpoint_id}")

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Removes weights or sampler weights. The future raises `ServiceError` where there are none."""
        return self._submit(lambda: states.delete(self._runs, tinker_path))

    def set_checkpoint_ttl_from_tinker_path(
        self, tinker_path: str, ttl_seconds: int | None
    ) -> APIFuture[None]:
        """Has no effect on weights that are there: nothing expires here."""

        def look() -> None:
            states.find(self._runs, tinker_path)

        return self._submit(look)

    # The service itself

    def get_server_capabilities(self) -> APIFuture[types.GetServerCapabilitiesResponse]:
        """As `ServiceClient.get_server_capabilities`."""
        return self._submit(lambda: capabilities(self._aliases))

    def get_telemetry(self) -> None:
        """None: nothing is reported to anybody."""


def capabilities(aliases: Mapping[str, str]) -> types.GetServerCapabilitiesResponse:
    """The models that need no download."""
    models = dict(aliases) | ({} if missing_files(embedded_folder()) else {EMBEDDED: EMBEDDED})
    return types.GetServerCapabilitiesResponse(
        supported_models=[
            types.SupportedModel(
                model_name=name, max_context_length=context_length(model), trainable=True, sampleable=True
            )
            for name, model in models.items()
        ]
    )


def _newest_first(folders: Sequence[Path]) -> list[types.Checkpoint]:
    return sorted((_checkpoint(folder) for folder in folders), key=lambda kept: kept.time, reverse=True)


def _checkpoint(folder: Path) -> types.Checkpoint:
    facts: dict[str, Any] = states.facts(folder)
    return types.Checkpoint(
        checkpoint_id=f"{folder.parent.name}/{folder.name}",
        checkpoint_type="training" if folder.parent.name == "weights" else "sampler",
        time=datetime.fromtimestamp(facts["time"], UTC),
        tinker_path=states.path_of(folder),
        size_bytes=facts["size_bytes"],
        user_metadata=facts["user_metadata"],
    )


def _cursor(offset: int, limit: int, found: Sequence[object]) -> types.Cursor:
    return types.Cursor(offset=offset, limit=limit, total_count=len(found))
