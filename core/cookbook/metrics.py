"""What the rows of metrics.jsonl say of episodes and of the policy; pure functions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .backends.base import Update
from .data import Example, Sample, Shaped, TokenSequence
from .types import Episode


def summarize(episodes: Sequence[Episode]) -> dict[str, float]:
    """Right, wrong and undecided told apart.

    n: episodes. correct: share of right among those with a verdict, with its standard error
    sqrt(p (1 - p) / n) of the binomial; left out where no episode has a verdict. reward: mean over the
    episodes that have one.
    """
    verdicts = [e.correct for e in episodes if e.correct is not None]
    rewards = [e.reward for e in episodes if e.reward is not None]
    row: dict[str, float] = {}
    if rewards:
        row["reward"] = sum(rewards) / len(rewards)
    if verdicts:
        p = sum(verdicts) / len(verdicts)
        row |= {"correct": p, "correct_se": math.sqrt(p * (1 - p) / len(verdicts))}
    counts = {"right": sum(verdicts), "wrong": len(verdicts) - sum(verdicts)}
    return row | counts | {"undecided": len(episodes) - len(verdicts), "n": len(episodes)}


class Batch:
    """What one step played and trained on, part by part, and its row of metrics."""

    def __init__(self) -> None:
        self.groups_P: list[Sequence[Episode]] = []
        self._advantages_P: list[np.ndarray | None] = []
        self._samples: list[Sample] = []
        self._sequences_K: list[list[TokenSequence]] = []
        self._kl: list[float] = []

    def add(self, part: Shaped) -> Shaped:
        self.groups_P += part.groups_P
        self._advantages_P += part.advantages_P
        self._samples += part.samples
        for k, (_, sequences_D) in enumerate(part.pieces_K):
            if k == len(self._sequences_K):
                self._sequences_K.append([])
            self._sequences_K[k] += sequences_D
        self._kl += [] if part.kl is None else [part.kl]
        return part

    def row(self, updates_K: Sequence[Update], loss: str, clip: tuple[float, float] | None) -> dict[str, Any]:
        """updates_K: what each substep's optimizer step gave. With several, the policy's numbers are given
        for each by its age in optimizer steps since the batch's first, as age_1/train/kl_k1."""
        row = of_episodes(self.groups_P, self._advantages_P) | of_tokens(self._samples)
        pairs_K = [(s, u.logprobs_D) for s, u in zip(self._sequences_K, updates_K, strict=True)]
        row |= of_policy([s for a, _ in pairs_K for s in a], [x for _, b in pairs_K for x in b], loss, clip)
        if len(updates_K) > 1:
            for age, (sequences_D, logprobs_D) in enumerate(pairs_K):
                found = of_policy(sequences_D, logprobs_D, loss, clip)
                row |= {f"age_{age}/{name}": value for name, value in found.items()}
        if self._kl:
            row["kl/reference"] = _mean(self._kl)
        for name in dict.fromkeys(name for update in updates_K for name in update.metrics):
            values = [update.metrics[name] for update in updates_K if name in update.metrics]
            row[f"train/{name}"] = sum(values) if name == "loss" else _mean(values)
        return row


def of_episodes(
    groups_P: Sequence[Sequence[Episode]], advantages_P: Sequence[np.ndarray | None]
) -> dict[str, Any]:
    """What a batch was like: rewards, verdicts, groups that teach nothing, and all of `of_play`.

    groups/failed: share of groups that an environment's error dropped. groups/no_verdict: share dropped
    for fewer than two verdicts at every seat. groups/constant: share whose advantages are all 0.
    """
    episodes = [e for group in groups_P for e in group]
    row: dict[str, Any] = {"version": episodes[0].version} if episodes else {}
    row |= summarize(episodes)
    row["groups/failed"] = _mean([not group for group in groups_P])
    pairs = list(zip(groups_P, advantages_P, strict=True))
    row["groups/no_verdict"] = _mean([a is None and len(group) > 0 for group, a in pairs])
    row["groups/constant"] = _mean([a is not None and not a.any() for a in advantages_P])
    return row | of_play(episodes)


def of_play(episodes: Sequence[Episode]) -> dict[str, float]:
    """Lengths, why episodes stopped, the environment's own numbers. tokens/sampled: a sum; tokens/reply:
    mean over replies; turns: mean over episodes. stop/REASON: a share; env/NAME: mean over the episodes that
    have it."""
    row: dict[str, float] = {}
    row["tokens/sampled"] = sum(len(t.tokens_T) for e in episodes for t in e.turns)
    replies = sum(len(e.turns) for e in episodes)
    if replies:
        row["tokens/reply"] = row["tokens/sampled"] / replies
        row["turns"] = replies / len(episodes)
    for reason in sorted({e.stop_reason for e in episodes}):
        row[f"stop/{reason}"] = _mean([e.stop_reason == reason for e in episodes])
    for name in sorted({name for e in episodes for name in e.metrics}):
        row[f"env/{name}"] = _mean([e.metrics[name] for e in episodes if name in e.metrics])
    return row


def of_tokens(samples: Sequence[Sample]) -> dict[str, float]:
    """episodes/split: share of the episodes that are more than one datum, as their history was edited.
    policy/entropy: -mean log mu over sampled tokens, a Monte Carlo estimate at temperature 1, in nats."""
    logprobs = [s.logprobs_T[s.action_T] for sample in samples for s in sample.sequences]
    if not any(map(len, logprobs)):
        return {}
    return {
        "episodes/split": _mean([len(sample.sequences) > 1 for sample in samples]),
        "policy/entropy": -float(np.concatenate(logprobs).mean(dtype=np.float64)),
    }


def of_policy(
    sequences_D: Sequence[TokenSequence],
    logprobs_D: Sequence[np.ndarray],
    loss: str,
    clip: tuple[float, float] | None,
) -> dict[str, float]:
    """How far the trainer lies from the sampler, over the sampled tokens that carry an advantage.

    logprobs_D: the trainer's, of each sequence's targets, before the update. With u = log pi - log mu:
    kl_k1 = mean(-u), kl_k3 = mean(e^u - 1 - u), both estimates of KL(sampler, trainer) in nats a token
    (Schulman, "Approximating KL divergence", 2020). ratio_mean and ratio_max: of e^u. ess: effective
    sample size (sum w)^2 / (N sum w^2) of w = e^u, a share of 1. clip_share: share of ratios outside the
    two thresholds, where the loss has them.
    """
    if not sequences_D:
        return {}
    u = np.concatenate([_log_ratio(s, new) for s, new in zip(sequences_D, logprobs_D, strict=True)])
    if not len(u):
        return {}
    ratio = np.exp(u)
    row = {
        "train/kl_k1": float(-u.mean()),
        "train/kl_k3": float((np.expm1(u) - u).mean()),
        "policy/ratio_mean": float(ratio.mean()),
        "policy/ratio_max": float(ratio.max()),
        "policy/ess": float(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum())),
    }
    if clip is not None:
        if loss == "gspo":
            pairs = zip(sequences_D, logprobs_D, strict=True)
            ratio = np.concatenate([_sequence_ratio(sequence, new) for sequence, new in pairs])
        elif any(s.proximal_T is not None for s in sequences_D):  # the loss takes its ratio to these
            pairs = zip(sequences_D, logprobs_D, strict=True)
            ratio = np.exp(np.concatenate([_log_ratio(s, new, s.proximal_T) for s, new in pairs]))
        row["policy/clip_share"] = float(((ratio < clip[0]) | (ratio > clip[1])).mean())
    return row


def _log_ratio(sequence: TokenSequence, logprobs_T: np.ndarray, to_T: np.ndarray | None = None) -> np.ndarray:
    """To the sampler, or to other weights."""
    at, to_T = sequence.advantages_T[1:] != 0, sequence.logprobs_T if to_T is None else to_T
    return (logprobs_T.astype(np.float64) - to_T[1:])[at]


def _sequence_ratio(sequence: TokenSequence, logprobs_T: np.ndarray) -> np.ndarray:
    """The geometric mean over all sampled tokens, once for each that carries an advantage."""
    u = (logprobs_T.astype(np.float64) - sequence.logprobs_T[1:])[sequence.action_T[1:]]
    return np.full(np.count_nonzero(sequence.advantages_T[1:]), np.exp(u.mean()))


def nll(examples: Sequence[Example], logprobs_D: Sequence[np.ndarray]) -> tuple[float, float]:
    """The sum of -w log p in nats over the targets of these examples, and the sum of their weights w."""
    loss = tokens = 0.0
    for example, logprobs_T in zip(examples, logprobs_D, strict=True):
        weights_T = example.weights_T[1:]
        loss -= float(weights_T @ logprobs_T.astype(np.float64))
        tokens += float(weights_T.sum())
    return loss, tokens


def of_supervised(examples_B: Sequence[Example], update: Update) -> dict[str, Any]:
    """nll: nats a trained token, by the weights before the step. examples/cut_off: share of conversations
    that max_length left without a single trained token."""
    kept = [example for example in examples_B if example.weights_T[1:].any()]
    loss, tokens = nll(kept, update.logprobs_D)
    row: dict[str, Any] = {"nll": loss / tokens} if tokens else {}
    row |= {"tokens/trained": int(tokens), "tokens/all": sum(len(e.tokens_T) for e in examples_B)}
    row["examples/cut_off"] = 1 - len(kept) / len(examples_B)
    return row | {f"train/{name}": value for name, value in update.metrics.items()}


class Clock:
    """What a step waited for, in seconds: laps of one stopwatch, so that they add up to the whole."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._last = now, now()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Everything since the last lap was this."""
        now = self._now()
        self._laps[name] = self._laps.get(name, 0.0) + now - self._last
        self._last = now

    def row(self) -> dict[str, float]:
        """The laps since the last row, and their sum. What follows a step's row (a checkpoint, an
        evaluation that wasn't over) is in the next."""
        row = {f"time/{name}_s": seconds for name, seconds in self._laps.items()}
        self._laps = {}
        return row | {"time/step_s": sum(row.values())}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
