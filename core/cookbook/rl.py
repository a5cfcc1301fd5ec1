"""Reinforcement learning: a policy gradient over groups of episodes of one task.

What differs from textbook GRPO: the advantage is r - mean(r) of the group, with no division by its
std and none by a reply's length (Dr. GRPO); LoRA instead of all weights; no KL term; a group whose
rewards are all equal gives no gradient. Batch b is sampled from the weights of version
max(0, b - max_lag), whatever is fast or slow, so a seed gives one run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Literal

import chz
import numpy as np
import tinker

from .advantages import ADVANTAGES
from .backends.base import Sampler, Trainer, plain_errors
from .configs import BackendConfig, EnvConfig, TrackerConfig, by_id, preset
from .data import drift, to_data
from .errors import ConfigError, EnvError
from .evaluate import Evaluations, summarize
from .preview import preview
from .registry import find, renderer_for_model
from .rendering import Renderer, get_renderer
from .rollout import Limits, Play, Player, Rollouts, together
from .runs import Run
from .streams import shuffled
from .types import Episode, Task


@chz.chz(typecheck=True)
class RLConfig:
    """One RL run. `steps` batches of `groups_per_step` tasks, each played `group_size` times."""

    env: EnvConfig = chz.field(meta_factory=by_id("env"), doc="what is played: an id, or my_module:MyEnv")
    model: str = chz.field(doc="a model of the backend: its name, a folder or a hub id")
    backend: BackendConfig = chz.field(
        meta_factory=by_id("backend", default="core/tinker"), doc="where sampling and training happen"
    )
    renderer: str = chz.field(default="auto", doc="the chat format's id; auto: the model's own")
    seed: int = chz.field(default=0, doc="of the data order, the sampling and the LoRA's first weights")
    steps: int = chz.field(default=100, doc="batches to train on")
    groups_per_step: int = chz.field(default=16, doc="tasks in a batch")
    group_size: int = chz.field(default=8, doc="tables (episodes, with one seat) of each task")
    max_tokens: int = chz.field(default=256, doc="tokens in one reply")
    limits: Limits = chz.field(default_factory=Limits, doc="what ends an episode its env doesn't end")
    max_lag: int = chz.field(default=0, doc="how many versions old a batch's weights may be; 0: none")
    loss: Literal["importance_sampling"] = chz.field(
        default="importance_sampling", doc="-sum(pi/mu * A) over the sampled tokens"
    )
    advantage: str = chz.field(default="mean", doc=f"of a group's rewards: {', '.join(ADVANTAGES)}")
    lr: float = chz.field(default=1e-4, doc="Adam's learning rate; the loss is a sum over tokens")
    lr_schedule: Literal["constant", "linear"] = chz.field(
        default="constant", doc="linear: falls to lr / steps at the last step"
    )
    lora_rank: int = chz.field(default=32, doc="of the trained matrices")
    evals: tuple[EnvConfig, ...] = chz.field(
        default=(), meta_factory=by_id("env", many=True), doc="environments to evaluate on besides"
    )
    eval_every: int = chz.field(default=20, doc="steps between evaluations; 0: none at all")
    eval_tasks: int = chz.field(default=100, doc="held-out tasks in an evaluation, from the first on")
    eval_temperature: float = chz.field(default=0.0, doc="of evaluation's replies; 0: greedy")
    save_every: int = chz.field(default=20, doc="steps between checkpoints; 0: only the last")
    log_episodes: int = chz.field(default=1, doc="groups of each batch whose transcripts are kept")
    trackers: tuple[TrackerConfig, ...] = chz.field(
        default=(), meta_factory=by_id("tracker", many=True), doc="where metrics go besides the run folder"
    )

    @chz.validate
    def _check(self) -> None:
        for name, least in (
            *((n, 0) for n in ("steps", "max_lag", "eval_every", "eval_tasks", "save_every", "log_episodes")),
            *((n, 1) for n in ("groups_per_step", "max_tokens", "lora_rank")),
            ("group_size", 2),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: must be {least} or more")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed}: must be from 0 to 2**63 - 1")
        if not 0 <= self.lr < 1:
            raise ConfigError(f"lr={self.lr}: must be in [0, 1), 1e-4 for instance")
        if not 0 <= self.eval_temperature < math.inf:
            raise ConfigError(f"eval_temperature={self.eval_temperature}: must be 0 (greedy) or more")
        if self.advantage not in ADVANTAGES:
            raise ConfigError(f"advantage={self.advantage!r}: must be one of {', '.join(ADVANTAGES)}")

    def adam(self, step: int) -> tinker.AdamParams:
        """Adam of one step: b1 0.9, b2 0.95, eps 1e-12, no decay (tinker's defaults), gradient unclipped."""
        left = 1 - step / self.steps if self.lr_schedule == "linear" else 1.0
        return tinker.AdamParams(learning_rate=self.lr * left)

    def render(self) -> tuple[str, Renderer]:
        """The renderer's id and the renderer; `auto` is resolved here, once."""
        id = self.renderer
        if id == "auto":
            found = renderer_for_model(self.model)
            if found is None:
                raise ConfigError(
                    f"no plugin knows the chat format of model {self.model!r}: give renderer=..., "
                    "`cookbook list renderer` shows them"
                )
            id = found
        return id, get_renderer(id, self.backend.tokenizer(self.model))

    async def run(self, run: Run) -> None:
        """Trains. Writes nothing before everything that it needs has been found."""
        sets = {"eval": self.env} | {f"eval.{i}": env for i, env in enumerate(self.evals)}
        sets = {name: tasks_of(env, "test", self.eval_tasks) for name, env in sets.items()}
        order = Order(self)
        with plain_errors(), self.backend.connect(run.folder) as service:
            client = await service.create_lora_training_client(
                self.model, rank=self.lora_rank, seed=self.seed
            )
            renderer_id, renderer = self.render()
            player = Player(renderer, self.max_tokens, self.limits)
            held_out = Player(renderer, self.max_tokens, self.limits, self.eval_temperature)
            row = find("renderer", renderer_id)
            facts = {"id": row.id, "options": row.options, "from": f"{row.dist} {row.version}"}
            run.begin(renderer=facts, backend=self.backend.describe(), trackers=self.trackers)
            evaluations = Evaluations(sets, held_out, self.seed, run)
            await train(self, Trainer(client, self.loss), plays(self, order, player), evaluations, run)

    async def dry_run(self) -> str:
        """The first batch as it would be sampled, and what a step costs; trains nothing."""
        order = Order(self)
        tasks_P = [order.task(0, group) for group in range(self.groups_per_step)]
        return await preview(self.render()[1], tasks_P, self.group_size, self.max_tokens)


async def train(cfg: RLConfig, trainer: Trainer, play: Play, evaluations: Evaluations, run: Run) -> None:
    """P groups of G episodes a step."""
    advantage = ADVANTAGES[cfg.advantage]
    rollouts = Rollouts(play, cfg.groups_per_step, cfg.max_lag, run.step, cfg.steps)
    try:
        sampler = await trainer.publish(run.step)
        rollouts.publish(sampler)  # starts every batch this version is meant for
        if cfg.eval_every and run.step % cfg.eval_every == 0:
            await evaluations.start(sampler)
        for step in range(run.step, cfg.steps):
            began = time.perf_counter()
            groups_P = await rollouts.take(step)
            sampled = time.perf_counter()
            advantages_P = [advantage(episodes_G) for episodes_G in groups_P]
            data_D = [d for pair in zip(groups_P, advantages_P, strict=True) for d in to_data(*pair)]
            trainer.accumulate(data_D)
            adam = cfg.adam(step)
            # Both are submitted by the calls, in this order, and only then awaited.
            update, sampler = await together([trainer.step(adam), trainer.publish(step + 1)])
            rollouts.publish(sampler)  # new weights before slow bookkeeping
            trained = time.perf_counter()
            row = batch_metrics(groups_P, advantages_P) | drift(data_D, update.logprobs_D)
            row |= {f"train/{name}": value for name, value in update.metrics.items()}
            row["lr"] = adam.learning_rate
            row |= {"time/wait_for_episodes_s": sampled - began, "time/wait_for_update_s": trained - sampled}
            row["time/step_s"] = trained - began
            run.log(step, row)
            run.episodes(step, groups_P[: cfg.log_episodes])
            done, last = step + 1, step + 1 == cfg.steps
            if last or (cfg.save_every and done % cfg.save_every == 0):
                await evaluations.collect()  # what goes on from a checkpoint begins with the next evaluation
                run.checkpoint(done, await trainer.save(f"{done:06d}"), trainer.optimizer_steps)
            if cfg.eval_every and (last or done % cfg.eval_every == 0):
                await evaluations.start(sampler)
        await evaluations.collect()
    finally:
        await together([rollouts.close(), evaluations.close()])  # no task outlives the loop


class Order:
    """Where in the data a step is: an index-keyed shuffle of each epoch, in O(1) memory."""

    def __init__(self, cfg: RLConfig) -> None:
        self._tasks, self._seed, self._groups = tasks_of(cfg.env, "train"), cfg.seed, cfg.groups_per_step
        if not len(self._tasks):
            raise ConfigError(f"{type(cfg.env).__name__} has no training tasks")

    def task(self, step: int, group: int) -> Task:
        epoch, at = divmod(step * self._groups + group, len(self._tasks))
        return self._tasks[shuffled(at, len(self._tasks), self._seed, "order", epoch)]


def plays(cfg: RLConfig, order: Order, player: Player) -> Play:
    """How group `group` of step `step` is played: its task, and random streams keyed by its place."""

    async def play(step: int, group: int, sampler: Sampler) -> list[Episode]:
        return await player.group(order.task(step, group), cfg.group_size, sampler, (cfg.seed, step, group))

    return play


def tasks_of(env: EnvConfig, split: str, n: int | None = None) -> Sequence[Task]:
    """The tasks of a split, or its first n. Raises `EnvError` for what is no sequence of tasks."""
    tasks = env.tasks(split)
    name = f"{type(env).__name__}.tasks({split!r})"
    if not hasattr(tasks, "__getitem__") or not hasattr(tasks, "__len__"):
        raise EnvError(f"{name} gave {type(tasks).__name__}, not a sequence (a list of Question, say)")
    if len(tasks) and not hasattr(tasks[0], "table"):
        raise EnvError(f"{name} holds {type(tasks[0]).__name__}, not Task; Question(...) is one")
    return tasks if n is None else [tasks[i] for i in range(min(n, len(tasks)))]


def batch_metrics(
    groups_P: Sequence[Sequence[Episode]], advantages_P: Sequence[np.ndarray | None]
) -> dict[str, Any]:
    """What a batch was like: rewards, verdicts, lengths, why episodes stopped, groups that teach nothing.

    groups/constant: share of groups whose advantages are all 0. groups/no_verdict: share dropped for
    fewer than two verdicts at every seat.
    """
    episodes = [e for group in groups_P for e in group]
    row: dict[str, Any] = {"version": episodes[0].version, **summarize(episodes)}
    row["groups/no_verdict"] = _mean([a is None for a in advantages_P])
    row["groups/constant"] = _mean([a is not None and not a.any() for a in advantages_P])
    row["tokens/sampled"] = sum(len(t.tokens_T) for e in episodes for t in e.turns)
    row["tokens/reply"] = row["tokens/sampled"] / sum(len(e.turns) for e in episodes)
    row["turns"] = _mean([len(e.turns) for e in episodes])
    for reason in sorted({e.stop_reason for e in episodes}):
        row[f"stop/{reason}"] = _mean([e.stop_reason == reason for e in episodes])
    for name in sorted({name for e in episodes for name in e.metrics}):
        row[f"env/{name}"] = _mean([e.metrics[name] for e in episodes if name in e.metrics])
    return row


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def recipe() -> chz.Blueprint:
    """RL with nothing set: `env=` and `model=` are for the user to give."""
    return preset(RLConfig, name="core/rl")
