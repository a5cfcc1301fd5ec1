"""The only place where a `tinker.Datum` is made: from episodes, and from conversations.

model_input = tokens[:-1], target_tokens = tokens[1:], and every other input is shifted with the targets.
Nothing here knows what a mask is to the backend: tokens that aren't trained have weight or advantage 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import tinker

from .advantages import kl_penalty, off_policy_weights
from .rendering import Rendered
from .types import Episode, Turn


@dataclass(slots=True)
class TokenSequence:
    """Turns whose prompts extend one another, as one token sequence; one datum.

    tokens_T: int64. action_T: bool, True on sampled tokens. logprobs_T: float32 nats under the sampler,
    0 where unknown. advantages_T: float64, 0 on every token that wasn't sampled. proximal_T: like
    logprobs_T, under the weights that the loss takes its ratio to instead of the sampler's.
    """

    tokens_T: np.ndarray
    action_T: np.ndarray
    logprobs_T: np.ndarray
    advantages_T: np.ndarray = field(init=False)
    proximal_T: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.advantages_T = np.zeros(len(self.tokens_T))


@dataclass(slots=True)
class Sample:
    """An episode on its way to datums. trains: whether it may have an advantage at all; one without a
    verdict, of a dropped group or masked as cut off stays at 0 through all shaping."""

    sequences: list[TokenSequence]
    trains: bool
    group: int

    @property
    def actions(self) -> int:
        """Sampled tokens, over all its datums."""
        return sum(int(s.action_T.sum()) for s in self.sequences)


def sequences(turns: Sequence[Turn]) -> list[TokenSequence]:
    """Merges turns while each prompt begins with all that came before it; else a new sequence opens."""
    runs: list[list[Turn]] = []
    for turn in turns:
        if runs and _extends(turn, runs[-1][-1]):
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return [_merge(run) for run in runs]


def _extends(turn: Turn, before: Turn) -> bool:
    n = len(before.prompt_T)
    m = n + len(before.tokens_T)
    prompt_T = turn.prompt_T
    return prompt_T[:n] == before.prompt_T and list(prompt_T[n:m]) == list(before.tokens_T)


def _merge(turns: Sequence[Turn]) -> TokenSequence:
    """The last turn's tokens hold all the others'."""
    prompt, reply = turns[-1].prompt_T, turns[-1].tokens_T
    tokens_T = np.empty(len(prompt) + len(reply), dtype=np.int64)
    tokens_T[: len(prompt)] = prompt
    tokens_T[len(prompt) :] = reply
    action_T = np.zeros(len(tokens_T), dtype=bool)
    logprobs_T = np.zeros(len(tokens_T), dtype=np.float32)
    for turn in turns:
        at = slice(len(turn.prompt_T), len(turn.prompt_T) + len(turn.tokens_T))
        action_T[at] = True
        logprobs_T[at] = turn.logprobs_T
    return TokenSequence(tokens_T, action_T, logprobs_T)


def to_samples(
    groups_P: Sequence[Sequence[Episode]], advantages_P: Sequence[np.ndarray | None], mask_cut_off: bool
) -> list[Sample]:
    """Lays each episode out as token sequences, its advantage on each of its sampled tokens, 0 elsewhere.

    mask_cut_off: an episode that a limit ended, or whose last reply was cut off, has advantage 0.
    """
    samples = []
    for group, (episodes_G, advantages_G) in enumerate(zip(groups_P, advantages_P, strict=True)):
        for i, episode in enumerate(episodes_G):
            trains = advantages_G is not None and episode.reward is not None
            trains = trains and not (mask_cut_off and episode.stop_reason != "done")
            sample = Sample(sequences(episode.turns), trains, group)
            if trains and advantages_G[i] != 0:  # type: ignore[index]
                for sequence in sample.sequences:
                    sequence.advantages_T[sequence.action_T] = advantages_G[i]  # type: ignore[index]
            samples.append(sample)
    return samples


def scale(
    samples: Sequence[Sample], loss_norm: str, groups: int, sizes: Sequence[int], max_tokens: int
) -> None:
    """Normalises a loss that the wire sums over tokens, by scaling the advantages in place.

    groups: the planned number P of groups in the batch. sizes: episodes in each group, G. constant:
    1 / (P G max_tokens) (Dr. GRPO, Liu et al. 2025). token_mean: 1 / the batch's sampled tokens (DAPO, Yu
    et al. 2025). episode_mean: 1 / (P G) and 1 / the episode's sampled tokens, over all its datums (GRPO,
    DeepSeekMath 2024). The denominators count what trains nothing too.
    """
    lengths = [sample.actions for sample in samples]
    for sample, length in zip(samples, lengths, strict=True):
        planned = groups * sizes[sample.group]
        divisor = {
            "sum": 1,
            "constant": planned * max_tokens,
            "token_mean": sum(lengths) if loss_norm == "token_mean" else 1,
            "episode_mean": planned * length,
        }[loss_norm]
        if divisor not in (0, 1):
            for sequence in sample.sequences:
                sequence.advantages_T /= divisor


def observe(sequences_D: Sequence[TokenSequence], logprobs_D: Sequence[np.ndarray]) -> None:
    """Gives the tokens that weren't sampled the sampler's log-probabilities, which dro's loss reads."""
    for sequence, logprobs_T in zip(sequences_D, logprobs_D, strict=True):
        sequence.logprobs_T = np.where(sequence.action_T, sequence.logprobs_T, logprobs_T).astype(np.float32)


def add_kl(
    samples: Iterable[Sample], logprobs_D: Sequence[np.ndarray], coef: float, discount: float, centre: bool
) -> float:
    """Adds a KL penalty to the advantages of what trains, in place, and to sampled tokens only.

    logprobs_D: the reference's, [T] nats, of each token sequence of the samples that train, in order.
    Returns the mean of log mu - log ref over their sampled tokens, an estimate (k1) of the KL.
    """
    rest = iter(logprobs_D)
    live = [sample.sequences for sample in samples if sample.trains]
    divergence_N = [
        np.concatenate([(s.logprobs_T - next(rest))[s.action_T] for s in each] or [np.zeros(0)])
        for each in live
    ]
    penalty_N = kl_penalty(divergence_N, coef, discount, centre)
    for each, penalty_T in zip(live, penalty_N, strict=True):
        at = 0
        for sequence in each:
            n = int(sequence.action_T.sum())
            sequence.advantages_T[sequence.action_T] += penalty_T[at : at + n]
            at += n
    return float(np.concatenate([*divergence_N, np.zeros(0)]).mean()) if any(map(len, divergence_N)) else 0.0


def correct(
    sequences_D: Sequence[TokenSequence], logprobs_D: Sequence[np.ndarray], kind: str, cap: float
) -> None:
    """Weighs the advantages of sampled tokens by how far the trainer is from the sampler, in place.

    logprobs_D: the trainer's, of each sequence's targets, [T - 1] nats, before the step's first update.
    token_truncate is decoupled: the loss's own ratio is then taken to the trainer, not to the sampler.
    """
    for sequence, logprobs_T in zip(sequences_D, logprobs_D, strict=True):
        at = sequence.action_T
        proximal_T = np.concatenate([[0.0], logprobs_T])
        weights = off_policy_weights(kind, (proximal_T - sequence.logprobs_T)[at], cap)
        sequence.advantages_T[at] *= weights
        if kind == "token_truncate":
            sequence.proximal_T = np.where(at, proximal_T, sequence.logprobs_T).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Shaped:
    """Groups of a batch as they are trained on.

    groups_P: all that were played. advantages_P: of each group, before KL and scale. samples: the episodes
    of the groups chosen to train on. pieces_K: for each substep its datums, and beside each the sequence
    that it was made of. kl: to the reference, in nats a token.
    """

    groups_P: Sequence[Sequence[Episode]]
    advantages_P: Sequence[np.ndarray | None]
    samples: Sequence[Sample]
    pieces_K: Sequence[tuple[list[tinker.Datum], list[TokenSequence]]]
    kl: float | None = None

    @property
    def data_K(self) -> list[list[tinker.Datum]]:
        return [data_D for data_D, _ in self.pieces_K]


def to_data(
    samples: Iterable[Sample], loss: str, keep: bool
) -> tuple[list[tinker.Datum], list[TokenSequence]]:
    """Datums for a policy-gradient loss, and beside each the sequence that it was made of.

    Dropped, after all shaping, is a sequence whose advantages are all exactly 0: it has no gradient,
    unless the loss isn't homogeneous in the advantage (dro), or they shall be kept. What may not train is
    always dropped.
    """
    kept = [
        sequence
        for sample in samples
        if sample.trains
        for sequence in sample.sequences
        if keep or loss == "dro" or sequence.advantages_T.any()
    ]
    return [_datum(sequence, loss) for sequence in kept], kept


def _datum(sequence: TokenSequence, loss: str) -> tinker.Datum:
    inputs = {
        "target_tokens": sequence.tokens_T[1:],
        "logprobs": (sequence.logprobs_T if sequence.proximal_T is None else sequence.proximal_T)[1:],
        "advantages": sequence.advantages_T[1:].astype(np.float32),
    }
    if loss == "gspo":
        inputs["sequence_ratio_mask"] = sequence.action_T[1:].astype(np.float32)
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(sequence.tokens_T[:-1].tolist()),
        loss_fn_inputs={name: tinker.TensorData.from_numpy(values) for name, values in inputs.items()},
    )


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation as tokens. weights_T: float64, of each token's loss."""

    tokens_T: np.ndarray
    weights_T: np.ndarray


def to_example(rendered: Rendered, max_length: int) -> Example:
    """Truncated on the right to max_length tokens, before the shift and before any mean."""
    return Example(
        np.array(rendered.only_tokens()[:max_length], dtype=np.int64),
        np.array(rendered.weights[:max_length], dtype=np.float64),
    )


def supervised_data(examples: Sequence[Example], reduction: str) -> list[tinker.Datum]:
    """Datums for cross-entropy, which the wire sums over tokens.

    example_mean: each example's weights sum to 1 / N; token_mean: all weights sum to 1; token_sum: as
    they are. N counts the examples that truncation left without a trained token too; those give no datum.
    """
    totals = [float(example.weights_T[1:].sum()) for example in examples]
    data_D = []
    for example, total in zip(examples, totals, strict=True):
        if total > 0:
            divisor = {"example_mean": total * len(examples), "token_mean": sum(totals), "token_sum": 1.0}
            data_D.append(_weighted(example, divisor[reduction]))
    return data_D


def _weighted(example: Example, divisor: float) -> tinker.Datum:
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(example.tokens_T[:-1].tolist()),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_numpy(example.tokens_T[1:]),
            "weights": tinker.TensorData.from_numpy((example.weights_T[1:] / divisor).astype(np.float32)),
        },
    )
