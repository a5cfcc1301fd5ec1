"""What supervised and reinforcement-learning runs have in common: more options, the schedule, where their
weights come from, and their checkpoints."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import chz
import tinker

from .backends.base import Sampler, Saved, Trainer, told
from .errors import BackendError, ConfigError
from .options import RunConfig
from .rendering import Renderer
from .runs import CHECKPOINTS, Run, log, read_rows


@chz.chz(typecheck=True)
class TrainConfig(RunConfig):
    """The options of every run that trains."""

    lora_rank: int = chz.field(default=32, doc="of the trained matrices")
    lr: float = chz.field(default=1e-4, doc="Adam's learning rate")
    lr_schedule: Literal["constant", "linear", "cosine"] = chz.field(
        default="constant", doc="how the rate falls to 0 after the last step"
    )
    warmup_steps: int = chz.field(default=0, doc="steps in which the rate rises to lr, in equal parts")
    weight_decay: float = chz.field(default=0.0, doc="Adam's, decoupled from the gradient")
    grad_clip: float = chz.field(default=0.0, doc="largest norm of the whole gradient; 0: unclipped")
    eval_every: int = chz.field(default=20, doc="steps between evaluations; 0: none at all")
    save_every: int = chz.field(default=20, doc="steps between checkpoints; 0: only the last")
    keep_last: int = chz.field(default=0, doc="how many checkpoints are kept, the latest; 0: all")
    keep_every: int = chz.field(default=0, doc="checkpoints of every so many steps are kept for good")

    @chz.validate
    def _check_training(self) -> None:
        self.at_least(0, "warmup_steps", "eval_every", "save_every", "keep_last", "keep_every")
        self.at_least(0, "weight_decay", "grad_clip")
        self.at_least(1, "lora_rank")
        if not 0 <= self.lr < 1:
            raise ConfigError(f"lr={self.lr}: must be in [0, 1), 1e-4 for instance")

    def adam(self, step: int, steps: int) -> tinker.AdamParams:
        """Adam of one step of so many: b1 0.9, b2 0.95, eps 1e-12 (tinker's defaults).

        The rate rises as (step + 1) / warmup_steps; then, with p the share of the other steps that is
        over, it stays, or falls as 1 - p, or as (1 + cos(pi p)) / 2 (Loshchilov & Hutter 2017).
        """
        if step < self.warmup_steps:
            factor = (step + 1) / self.warmup_steps
        else:
            p = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
            factor = {"constant": 1.0, "linear": 1 - p, "cosine": (1 + math.cos(math.pi * p)) / 2}[
                self.lr_schedule
            ]
        return tinker.AdamParams(
            learning_rate=self.lr * factor, weight_decay=self.weight_decay, grad_clip_norm=self.grad_clip
        )

    def evaluates(self, step: int, steps: int) -> bool:
        """Whether the weights after so many batches are evaluated."""
        return self.eval_every > 0 and (step == steps or step % self.eval_every == 0)

    def saves(self, step: int, steps: int) -> bool:
        """Whether there is a checkpoint after so many batches."""
        return step == steps or (self.save_every > 0 and step % self.save_every == 0)

    @asynccontextmanager
    async def connect(self, run: Run) -> AsyncIterator[tuple[Any, Any, Renderer, dict[str, Any]]]:
        """The service client, the training client with the weights that the run begins or goes on with,
        the renderer, and what of them belongs in the record."""
        async with self.service(run) as (service, loaded):
            with told("asking the backend for a model to train"):
                client = await self._training_client(service, run, loaded)
            renderer = self.render(run.record.get("renderer"))
            yield service, client, renderer, self.facts(renderer, loaded)

    async def _training_client(self, service: Any, run: Run, loaded: str) -> Any:
        if run.checkpoint_row is not None:
            path = run.checkpoint_row["path"]
            return await service.create_training_client_from_state_with_optimizer(path)
        if loaded:
            return await service.create_training_client_from_state(loaded)
        return await service.create_lora_training_client(self.model, rank=self.lora_rank, seed=self.seed)


class Checkpoints:
    """Saves, tells the run, and deletes what the rule no longer keeps."""

    def __init__(
        self, cfg: TrainConfig, run: Run, trainer: Trainer, rest_client: Any, max_lag: int = 0
    ) -> None:
        """max_lag: how many published versions from before a checkpoint its next batches are sampled from."""
        self._cfg, self._run, self._trainer, self._rest = cfg, run, trainer, rest_client
        self._max_lag = max_lag
        self._rows = read_rows(run.folder, CHECKPOINTS)
        self._deleted: set[str] = set()
        # Version -> path. Not the samplers: whoever holds one keeps its weights in memory.
        self._published: dict[int, str] = {}

    async def reopen(self) -> list[Sampler]:
        """What a resumed run goes on with: the samplers that its checkpoint names, the oldest first."""
        row = self._run.checkpoint_row or {}
        self._trainer.optimizer_steps = row.get("optimizer_steps", 0)
        older = []
        for version, path in row.get("samplers", {}).items():
            older.append(self.published(await self._trainer.reopen(int(version), path)))
        if row:  # the run may have been killed between a checkpoint and what it made void
            await self._sweep(row["step"] - self._max_lag)
        return older

    def published(self, sampler: Sampler) -> Sampler:
        """Remembers weights that a checkpoint may have to name."""
        if sampler.path:
            self._published[sampler.version] = sampler.path
        return sampler

    async def save(self, step: int) -> None:
        """A checkpoint after `step` batches, unless there is one: the state, and the samplers that the
        next batches need besides it."""
        before = self._run.checkpoint_row
        if step == (before["step"] if before is not None else 0):
            return
        await self.add(step, await self._trainer.save(f"{step:06d}"))

    async def add(self, step: int, saved: Saved) -> None:
        """A checkpoint whose state is saved already."""
        oldest = step - self._max_lag
        samplers = {str(v): path for v, path in self._published.items() if oldest <= v < step}
        facts = {"samplers": samplers} if self._max_lag else {}
        row = self._run.checkpoint(step, saved.path, optimizer_steps=saved.optimizer_steps, **facts)
        self._rows.append(row)
        await self._sweep(oldest)

    async def _sweep(self, oldest: int) -> None:
        """Deletes checkpoints that no rule keeps, and samplers older than `oldest` that none needs."""
        kept = [row for row in self._rows if row in self._rows[-self._cfg.keep_last :] or self._for_good(row)]
        wanted = {row["path"] for row in kept} | {p for row in kept for p in row.get("samplers", {}).values()}
        wanted |= {path for version, path in self._published.items() if version >= oldest}
        found = [row["path"] for row in self._rows]
        found += [path for row in self._rows for path in row.get("samplers", {}).values()]
        found += self._published.values()
        for path in dict.fromkeys(found):
            if path not in wanted and path not in self._deleted:
                self._deleted.add(path)
                await self._delete(path)
        self._published = {v: path for v, path in self._published.items() if v >= oldest}

    def _for_good(self, row: dict[str, Any]) -> bool:
        return self._cfg.keep_every > 0 and row["step"] % self._cfg.keep_every == 0

    async def _delete(self, path: str) -> None:
        try:
            await self._rest.delete_checkpoint_from_tinker_path(path)
        except (BackendError, tinker.TinkerError, ValueError) as e:  # the last: a path that isn't as tinker's
            # A run that was killed between two deletions comes by here again; it needs no second one.
            log.info("%s wasn't deleted: %s", path, e)
