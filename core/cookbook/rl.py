"""Reinforcement learning: a policy gradient over groups of episodes of one task.

What differs from textbook GRPO by default: the advantage is r - mean(r) of the group, with no division by
its std and none by a reply's length (Dr. GRPO); LoRA instead of all weights; no KL term; a group whose
rewards are all equal gives no gradient. Batch b is sampled from the weights of version
max(0, b - max_lag), whatever is fast or slow, so a seed gives one run. docs/13-algorithms.md has the
options that make GRPO, Dr. GRPO, DAPO, RLOO, GSPO and CISPO of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import chz

from .advantages import ADVANTAGES, advantages, named
from .backends.base import Sampler, SamplingClient, Trainer, logprobs_under, together
from .configs import by_id, preset
from .data import Shaped, add_kl, correct, observe, scale, to_data, to_samples
from .errors import ConfigError
from .evaluate import Evaluations
from .kinds import EnvConfig
from .metrics import Batch, Clock
from .options import PlayConfig, tasks_of
from .preview import preview
from .rollout import Player
from .runs import Run, weights_of
from .schedule import Play, Rollouts, Stopped
from .streams import shuffled
from .training import Checkpoints, TrainConfig
from .types import Episode, Task

CLIPS = {"ppo": (0.8, 1.2), "cispo": (0.0, 5.0), "gspo": (1 - 3e-4, 1 + 4e-4)}
"""The thresholds of each loss that clips, on the ratio itself, where none are given. ppo: Schulman et al.
2017; cispo: none below (MiniMax-M1 2025); gspo: Zheng et al. 2025."""


@chz.chz(typecheck=True)
class RLConfig(TrainConfig, PlayConfig):
    """One RL run. `steps` batches of `groups_per_step` tasks, each played `group_size` times."""

    steps: int = chz.field(default=100, doc="batches to train on")
    groups_per_step: int = chz.field(default=16, doc="tasks in a batch")
    group_size: int = chz.field(default=8, doc="tables (episodes, with one seat) of each task")
    max_lag: int = chz.field(default=0, doc="how many versions old a batch's weights may be; 0: none")
    minibatches: int = chz.field(default=1, doc="parts of a batch, each submitted as soon as it is played")
    substeps: int = chz.field(default=1, doc="optimizer steps a batch, each on a part of its groups")
    loss: Literal["auto", "importance_sampling", "ppo", "cispo", "gspo", "dro"] = chz.field(
        default="auto", doc="auto: ppo where max_lag or substeps take it off policy, else importance_sampling"
    )
    clip_low: float | None = chz.field(default=None, doc="on the ratio pi/mu, 0.8 say; None: the loss's own")
    clip_high: float | None = chz.field(default=None, doc="likewise, 1.2 say")
    dro_beta: float = chz.field(default=0.05, doc="weight of dro's squared log-ratio, which it halves")
    advantage: str = chz.field(default="mean", doc=f"{', '.join(ADVANTAGES)}, or pkg.mod:fn of a group")
    loss_norm: Literal["sum", "constant", "token_mean", "episode_mean"] = chz.field(
        default="sum", doc="what the loss over tokens is divided by: nothing, or as docs/13 says"
    )
    constant_groups: Literal["drop", "keep", "resample"] = chz.field(
        default="drop", doc="groups that teach nothing: not sent, sent, or others played in their place"
    )
    oversample: float = chz.field(default=2.0, doc="with resample: groups played for each that is trained on")
    truncated: Literal["keep", "mask"] = chz.field(
        default="keep", doc="episodes that were cut off train as others, or have advantage 0"
    )
    off_policy: Literal["none", "token_truncate", "token_mask", "sequence_mask"] = chz.field(
        default="none", doc="correction by the trainer's ratio to the sampler, before the step's first update"
    )
    off_policy_cap: float = chz.field(default=2.0, doc="its largest ratio; the masks' smallest is 1 over it")
    kl_coef: float = chz.field(default=0.0, doc="of the KL penalty in the advantages; 0: none")
    kl_reference: str = chz.field(default="", doc="a run, RUN@STEP or tinker://...; empty: the model itself")
    kl_discount: float = chz.field(
        default=0.0, doc="of later tokens' KL in a token's penalty; 0: its own alone"
    )
    kl_centre: bool = chz.field(default=True, doc="subtract the batch's mean penalty")
    evals: tuple[EnvConfig, ...] = chz.field(
        default=(), meta_factory=by_id("env", many=True), doc="environments to evaluate on besides"
    )
    eval_tasks: int = chz.field(default=100, doc="held-out tasks in an evaluation, from the first on")
    eval_temperature: float = chz.field(default=0.0, doc="of evaluation's replies; 0: greedy")
    log_episodes: int = chz.field(default=1, doc="groups of each batch whose transcripts are kept")

    @chz.validate
    def _check(self) -> None:
        self.at_least(0, "steps", "max_lag", "eval_tasks", "log_episodes")
        self.at_least(0, "eval_temperature", "kl_coef", "dro_beta")
        self.at_least(1, "groups_per_step", "minibatches", "substeps", "oversample")
        self.at_least(1, "off_policy_cap")
        self.at_least(2, "group_size")
        if not 0 <= self.kl_discount <= 1:
            raise ConfigError(f"kl_discount={self.kl_discount}: must be from 0 to 1")
        named(self.advantage)
        self.clip()
        self._check_parts()
        if self.off_policy != "none" and self.loss_fn in ("gspo", "dro"):
            raise ConfigError(
                f"off_policy={self.off_policy} corrects tokens; loss={self.loss_fn} can't take it"
            )

    def _check_parts(self) -> None:
        n = max(self.minibatches, self.substeps)
        if self.minibatches > 1 and self.substeps > 1:
            raise ConfigError(
                f"minibatches={self.minibatches} substeps={self.substeps}: one of them must be 1"
            )
        if self.groups_per_step % n:
            name = "minibatches" if self.minibatches > 1 else "substeps"
            raise ConfigError(f"groups_per_step={self.groups_per_step} isn't a multiple of {name}={n}")
        whole = {
            "advantage=batch_std": self.advantage == "batch_std",
            "loss_norm=token_mean": self.loss_norm == "token_mean",
            "constant_groups=resample": self.constant_groups == "resample",
            "kl_centre=true": self.kl_coef > 0 and self.kl_centre,
        }
        needs = [name for name, applies in whole.items() if applies]
        if self.minibatches > 1 and needs:
            raise ConfigError(
                f"{needs[0]} needs the whole batch, so minibatches={self.minibatches} must be 1"
            )

    @property
    def loss_fn(self) -> str:
        """The loss's name on the wire."""
        off_policy = self.max_lag > 0 or self.substeps > 1
        return ("ppo" if off_policy else "importance_sampling") if self.loss == "auto" else self.loss

    def clip(self) -> tuple[float, float] | None:
        """Both thresholds on the ratio, or None for a loss without. Raises `ConfigError`."""
        given = {k: getattr(self, k) for k in ("clip_low", "clip_high") if getattr(self, k) is not None}
        if self.loss_fn not in CLIPS:
            if given:
                raise ConfigError(f"{next(iter(given))} given, but loss={self.loss_fn} doesn't clip")
            return None
        low, high = (
            given.get("clip_low", CLIPS[self.loss_fn][0]),
            given.get("clip_high", CLIPS[self.loss_fn][1]),
        )
        if not 0 <= low <= 1 <= high < math.inf:
            raise ConfigError(f"clip_low={low} clip_high={high}: must be ratios around 1, 0.8 and 1.2 say")
        return low, high

    def loss_config(self) -> dict[str, float] | None:
        """What goes on the wire with the loss; both thresholds always, as servers' defaults differ."""
        clip = self.clip()
        if clip is not None:
            return {"clip_low_threshold": clip[0], "clip_high_threshold": clip[1]}
        return {"beta": self.dro_beta} if self.loss_fn == "dro" else None

    def warnings(self) -> list[str]:
        """What can be done, and is likely not meant."""
        lines = []
        if self.loss_fn == "importance_sampling" and (self.max_lag > 0 or self.substeps > 1):
            lines.append("loss=importance_sampling doesn't clip, and max_lag or substeps take it off policy")
        if self.grad_clip and self.loss_norm == "sum":
            lines.append("grad_clip on a gradient summed over tokens rescales every step; set loss_norm too")
        if self.truncated == "keep" and self.loss_norm == "episode_mean":
            lines.append("loss_norm=episode_mean favours long wrong replies (Liu et al. 2025)")
        return lines

    @property
    def played(self) -> int:
        """Groups that are played a step."""
        more = self.oversample if self.constant_groups == "resample" else 1
        return math.ceil(self.groups_per_step * more)

    async def run(self, run: Run) -> None:
        """Trains. Writes nothing before everything that it needs has been found."""
        sets = {"eval": self.env} | {f"eval.{i}": env for i, env in enumerate(self.evals)}
        sets = {name: tasks_of(env, "test", self.eval_tasks) for name, env in sets.items()}
        order = Order(self)
        async with self.connect(run) as (service, client, renderer, facts):
            reference = await self._reference(service, facts)
            facts |= {"loss": self.loss_fn, "loss_config": self.loss_config(), "steps": self.steps}
            run.begin(**facts, warnings=self.warnings(), trackers=self.trackers)

            def reopen(path: str) -> Any:
                return service.create_sampling_client(model_path=path)

            trainer = Trainer(client, self.loss_fn, self.loss_config(), reopen if self.max_lag else None)
            player = self.player(renderer)
            held_out = dataclasses.replace(player, temperature=self.eval_temperature)  # one gate for both
            evaluations = Evaluations(sets, held_out, self.seed, run)
            checkpoints = Checkpoints(self, run, trainer, self.backend.rest_client(service), self.max_lag)
            play = plays(self, order, player)
            await train(self, Parts(trainer, play, reference, evaluations, checkpoints), run)

    async def _reference(self, service: Any, facts: dict[str, Any]) -> SamplingClient | None:
        if not self.kl_coef:
            return None
        facts["kl_reference"] = weights_of(self.kl_reference) if self.kl_reference else self.model
        where = "model_path" if self.kl_reference else "base_model"
        return await service.create_sampling_client(**{where: facts["kl_reference"]})

    async def dry_run(self) -> str:
        """The first batch as it would be sampled, and what a step costs; trains nothing."""
        order = Order(self)
        tasks_P = [order.task(0, group) for group in range(self.played)]
        return await preview(self.render(), tasks_P, self.group_size, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop is made of."""

    trainer: Trainer
    play: Play
    reference: SamplingClient | None
    evaluations: Evaluations
    checkpoints: Checkpoints


async def train(cfg: RLConfig, parts: Parts, run: Run) -> None:
    """P groups of G episodes a step."""
    trainer, evaluations, checkpoints = parts.trainer, parts.evaluations, parts.checkpoints
    rollouts = Rollouts(parts.play, cfg.played, cfg.max_lag, range(run.step, cfg.steps), run.stop)
    step, clock, run.stoppable = run.step, Clock(), True
    try:
        for older in await checkpoints.reopen():
            rollouts.publish(older)  # the next batches are meant for weights from before the checkpoint
        sampler = checkpoints.published(await trainer.publish(step))
        rollouts.publish(sampler)  # starts every batch that this version is meant for
        if cfg.evaluates(step, cfg.steps) and run.last_evaluated < step:
            await evaluations.start(sampler)
        for step in range(run.step, cfg.steps):
            batch, updates, adam = Batch(), [], cfg.adam(step, cfg.steps)
            async for groups in rollouts.parts(step, cfg.minibatches):
                clock.lap("wait_for_episodes")
                shaped = batch.add(await shape(cfg, groups, rollouts.sampler(step).client, parts))
                for substep, data_D in enumerate(shaped.data_K):
                    if substep:
                        updates.append(trainer.step(adam))
                    trainer.accumulate(data_D)  # submitted, not awaited
                clock.lap("wait_for_data")
            # Both are submitted by the calls, in this order, and only then awaited.
            updates += [trainer.step(adam), trainer.publish(step + 1)]
            *updates, sampler = await together(updates)
            rollouts.publish(checkpoints.published(sampler))  # new weights before slow bookkeeping
            clock.lap("wait_for_update")
            row = batch.row(updates, cfg.loss_fn, cfg.clip()) | {"lr": adam.learning_rate}
            row["age"] = min(step, cfg.max_lag)  # of the batch's weights, in batches
            run.log(step, row | clock.row())
            run.episodes(step, batch.groups_P[: cfg.log_episodes])
            done = step + 1
            if cfg.saves(done, cfg.steps):
                await evaluations.collect()  # what goes on from a checkpoint begins with the next evaluation
                await checkpoints.save(done)
                clock.lap("wait_for_checkpoint")
            if cfg.evaluates(done, cfg.steps):
                await evaluations.start(sampler)
                clock.lap("wait_for_evaluation")
        await evaluations.collect()
    except Stopped:  # while episodes were waited for: the weights are those of `step` whole batches
        await evaluations.collect()
        await checkpoints.save(step)
        raise
    finally:
        await together([rollouts.close(), evaluations.close()])  # no task outlives the loop


async def shape(
    cfg: RLConfig, groups_P: Sequence[Sequence[Episode]], sampled_by: SamplingClient, parts: Parts
) -> Shaped:
    """From episodes to what is trained on: baseline, KL, loss scale, off-policy correction, in this order.

    sampled_by: the weights that the groups were sampled from.
    """
    advantages_P = advantages(cfg.advantage, groups_P)
    chosen = range(len(groups_P))
    if cfg.constant_groups == "resample":  # the first that teach anything, in index order (DAPO 2025)
        chosen = [i for i, a in enumerate(advantages_P) if a is not None and a.any()][: cfg.groups_per_step]
    groups_C, keep = [groups_P[i] for i in chosen], cfg.constant_groups == "keep"
    samples = to_samples(groups_C, [advantages_P[i] for i in chosen], cfg.truncated == "mask")
    live = [sequence for sample in samples if sample.trains for sequence in sample.sequences]
    if cfg.loss_fn == "dro":
        observe(live, await logprobs_under(sampled_by, [sequence.tokens_T for sequence in live]))
    kl = None
    if parts.reference is not None and live:
        logprobs_D = await logprobs_under(parts.reference, [sequence.tokens_T for sequence in live])
        kl = add_kl(samples, logprobs_D, cfg.kl_coef, cfg.kl_discount, cfg.kl_centre)
    scale(samples, cfg.loss_norm, cfg.groups_per_step, [len(group) for group in groups_C], cfg.max_tokens)
    if cfg.off_policy != "none":
        data_D, sequences_D = to_data(samples, cfg.loss_fn, keep)
        correct(sequences_D, await parts.trainer.forward(data_D), cfg.off_policy, cfg.off_policy_cap)
    size = max(1, math.ceil(len(groups_C) / cfg.substeps))
    samples_K = [[s for s in samples if s.group // size == k] for k in range(cfg.substeps)]
    return Shaped(
        groups_P, advantages_P, samples, [to_data(part, cfg.loss_fn, keep) for part in samples_K], kl
    )


class Order:
    """Where in the data a step is: an index-keyed shuffle of each epoch, in O(1) memory."""

    def __init__(self, cfg: RLConfig) -> None:
        self._tasks, self._seed, self._groups = tasks_of(cfg.env, "train"), cfg.seed, cfg.played
        if not len(self._tasks):
            raise ConfigError(f"{type(cfg.env).__name__} has no training tasks")

    def task(self, step: int, group: int) -> Task:
        """Raises nothing for any step: epochs follow each other for ever."""
        epoch, at = divmod(step * self._groups + group, len(self._tasks))
        return self._tasks[shuffled(at, len(self._tasks), self._seed, "order", epoch)]


def plays(cfg: RLConfig, order: Order, player: Player) -> Play:
    """How group `group` of step `step` is played: its task, and random streams keyed by its place."""

    async def play(step: int, group: int, sampler: Sampler) -> list[Episode]:
        task, key = order.task(step, group), (cfg.seed, step, group)
        return await player.group(task, cfg.group_size, sampler, key, (step, 0, group))

    return play


def recipe() -> chz.Blueprint:
    """RL with nothing set: `env=` and `model=` are for the user to give.

    On this machine: batches and replies of a size with which a small model learns a small task in minutes.
    """
    local = {"groups_per_step": 8, "max_tokens": 48, "lr": 3e-4, "eval_tasks": 50}
    return preset(RLConfig, name="core/rl", local=local)
