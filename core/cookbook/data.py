"""The only place where a `tinker.Datum` is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tinker

from .types import Episode, Turn


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Turns whose prompts extend one another, as one token sequence.

    tokens_T: int64. action_T: bool, True on sampled tokens. logprobs_T: float32, 0 elsewhere.
    """

    tokens_T: np.ndarray
    action_T: np.ndarray
    logprobs_T: np.ndarray


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
    so_far = [*before.prompt_T, *before.tokens_T]
    return list(turn.prompt_T[: len(so_far)]) == so_far


def _merge(turns: Sequence[Turn]) -> TokenSequence:
    """The last turn's tokens hold all the others'."""
    last = turns[-1]
    tokens_T = np.array([*last.prompt_T, *last.tokens_T], dtype=np.int64)
    action_T = np.zeros(len(tokens_T), dtype=bool)
    logprobs_T = np.zeros(len(tokens_T), dtype=np.float32)
    for turn in turns:
        at = slice(len(turn.prompt_T), len(turn.prompt_T) + len(turn.tokens_T))
        action_T[at] = True
        logprobs_T[at] = turn.logprobs_T
    return TokenSequence(tokens_T, action_T, logprobs_T)


def to_data(episodes_G: Sequence[Episode], advantages_G: np.ndarray | None) -> list[tinker.Datum]:
    """A group's datums for a policy-gradient loss: model_input = tokens[:-1], targets = tokens[1:].

    An episode's advantage stands on each of its action tokens, 0 elsewhere. An episode of advantage 0
    gives no datum: it has no gradient. The action mask isn't sent; `action_mask` reads it back.
    """
    if advantages_G is None:
        return []
    return [
        _datum(sequence, advantage)
        for episode, advantage in zip(episodes_G, advantages_G, strict=True)
        if advantage != 0
        for sequence in sequences(episode.turns)
    ]


def _datum(sequence: TokenSequence, advantage: float) -> tinker.Datum:
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(sequence.tokens_T[:-1].tolist()),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_numpy(sequence.tokens_T[1:]),
            "logprobs": tinker.TensorData.from_numpy(sequence.logprobs_T[1:]),
            "advantages": tinker.TensorData.from_numpy(
                np.where(sequence.action_T[1:], advantage, 0.0).astype(np.float32)
            ),
        },
    )


def action_mask(datum: tinker.Datum) -> np.ndarray:
    """bool [T]: which targets of a datum made by `to_data` are sampled tokens."""
    return datum.loss_fn_inputs["advantages"].to_numpy() != 0


def drift(data_D: Sequence[tinker.Datum], logprobs_D: Sequence[np.ndarray]) -> dict[str, float]:
    """How far the trainer's log-probabilities lie from the sampler's, over action tokens.

    With u = log pi - log mu: kl_k1 = mean(-u), kl_k3 = mean(e^u - 1 - u), both estimates of
    KL(sampler, trainer) in nats a token (Schulman, "Approximating KL divergence", 2020).
    """
    if not data_D:
        return {}
    u = np.concatenate(
        [
            (new - datum.loss_fn_inputs["logprobs"].to_numpy())[action_mask(datum)]
            for datum, new in zip(data_D, logprobs_D, strict=True)
        ]
    ).astype(np.float64)
    return {"train/kl_k1": float(-u.mean()), "train/kl_k3": float((np.expm1(u) - u).mean())}
