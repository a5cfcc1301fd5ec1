"""The options that runs share: what every run has, and what every run has that plays an environment."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import chz

from .backends.base import plain_errors
from .configs import by_id, json_object
from .errors import ConfigError, EnvError
from .kinds import BackendConfig, EnvConfig, TrackerConfig
from .registry import find, renderer_for_model
from .rendering import Renderer, get_renderer
from .rollout import EpisodeErrors, Limits, Player
from .runs import Run, record_of, weights_of
from .schedule import Gate
from .types import Task


@chz.chz(typecheck=True)
class RunConfig:
    """The options of every run."""

    model: str = chz.field(doc="a model of the backend: its name, a folder or a hub id")
    backend: BackendConfig = chz.field(
        meta_factory=by_id("backend", default="core/tinker"), doc="where sampling and training happen"
    )
    renderer: str = chz.field(
        default="auto", doc="the chat format's id; auto: the loaded run's, or the model's own"
    )
    renderer_options: str = chz.field(
        default="", doc='more of its options, JSON: {"current_date": "2026-01-31"}'
    )
    seed: int = chz.field(default=0, doc="of all that is random: order, sampling, a LoRA's first weights")
    load: str = chz.field(
        default="",
        doc="weights to begin with: a run, RUN@STEP, or tinker://...; training has a fresh optimizer",
    )
    trackers: tuple[TrackerConfig, ...] = chz.field(
        default=(), meta_factory=by_id("tracker", many=True), doc="where metrics go besides the run folder"
    )

    @chz.validate
    def _check_run(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed}: must be from 0 to 2**63 - 1")

    def at_least(self, least: float, *names: str) -> None:
        """Raises `ConfigError` for the first of these options that is below."""
        for name in names:
            if not least <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)}: must be {least} or more")

    def render(self, recorded: Mapping[str, Any] | None = None) -> Renderer:
        """The renderer; `auto` is resolved here, once. recorded: what the record of this run says of it,
        which a run that goes on keeps."""
        tokenizer = self.backend.tokenizer(self.model)
        if recorded:
            return get_renderer(recorded["id"], tokenizer, **recorded["options"])
        options = json_object("renderer_options", self.renderer_options)
        if self.renderer != "auto":
            return get_renderer(self.renderer, tokenizer, **options)
        loaded = record_of(self.load).get("renderer") if self.load else None
        if loaded:
            return get_renderer(loaded["id"], tokenizer, **{**loaded["options"], **options})
        found = renderer_for_model(self.model)
        if found is None:
            raise ConfigError(
                f"no plugin knows the chat format of model {self.model!r}: give renderer=..., renderer=hf "
                "for the model's own template; `cookbook list renderer` shows them"
            )
        return get_renderer(found, tokenizer, **options)

    @asynccontextmanager
    async def service(self, run: Run) -> AsyncIterator[tuple[Any, str]]:
        """The service client, and the path of the weights that `load` names, or ""."""
        # Once resolved it stays: another run goes on meanwhile, and "last" becomes this one.
        loaded = run.record.get("loaded") or (weights_of(self.load) if self.load else "")
        with plain_errors(), self.backend.connect(run.folder) as service:
            yield service, loaded

    def facts(self, renderer: Renderer, loaded: str) -> dict[str, Any]:
        """What belongs in the record of the machine, the renderer and the weights."""
        row = find("renderer", renderer.id)
        facts: dict[str, Any] = {"backend": self.backend.describe()}
        facts["renderer"] = {"id": row.id, "options": renderer.options, "from": f"{row.dist} {row.version}"}
        return facts | ({"loaded": loaded} if loaded else {})


@chz.chz(typecheck=True)
class PlayConfig(RunConfig):
    """The options of every run that plays an environment."""

    env: EnvConfig = chz.field(meta_factory=by_id("env"), doc="what is played: an id, or my_module:MyEnv")
    max_tokens: int = chz.field(default=256, doc="tokens in one reply")
    limits: Limits = chz.field(default_factory=Limits, doc="what ends an episode its env doesn't end")
    episode_errors: EpisodeErrors = chz.field(
        default="raise", doc="an env that raises ends the run, its group is dropped, or played again twice"
    )
    max_concurrent: int = chz.field(default=0, doc="episodes at once, the earliest first; 0: all there are")

    @chz.validate
    def _check_play(self) -> None:
        self.at_least(0, "max_concurrent")
        self.at_least(1, "max_tokens")

    def player(self, renderer: Renderer, temperature: float = 1.0) -> Player:
        """An episode never outgrows the model's context."""
        limits, context = self.limits, self.backend.context(self.model)
        if context is not None:
            most = min(context, limits.max_episode_tokens or context)
            limits = chz.replace(limits, max_episode_tokens=most)
        gate = Gate(self.max_concurrent)
        return Player(renderer, self.max_tokens, limits, temperature, self.episode_errors, gate)


def tasks_of(env: EnvConfig, split: str, n: int | None = None) -> Sequence[Task]:
    """The tasks of a split, or its first n. Raises `EnvError` for what is no sequence of tasks."""
    tasks = env.tasks(split)
    name = f"{type(env).__name__}.tasks({split!r})"
    if not hasattr(tasks, "__getitem__") or not hasattr(tasks, "__len__"):
        raise EnvError(f"{name} gave {type(tasks).__name__}, not a sequence (a list of Question, say)")
    if len(tasks) and not hasattr(tasks[0], "table"):
        raise EnvError(f"{name} holds {type(tasks[0]).__name__}, not Task; Question(...) is one")
    return tasks if n is None else [tasks[i] for i in range(min(n, len(tasks)))]
