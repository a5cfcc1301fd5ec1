"""From rewards to advantages, KL terms and off-policy weights; pure functions on arrays."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.signal import lfilter

from .errors import ConfigError, EnvError
from .types import Episode

Advantage = Callable[[Sequence[Episode]], "np.ndarray | None"]
STD_EPS = 1e-6  # added to a std before dividing by it


def _by_seat(baseline: Callable[[np.ndarray], np.ndarray]) -> Advantage:
    """Applies `baseline` to the rewards of each seat's episodes with a verdict, where there are two.

    The function it makes returns float64 [G]: 0 for an episode without a verdict, which counts in no
    baseline, and exactly 0 where all rewards of a seat are equal (subtracting a float mean leaves 1e-17,
    which a std would blow up). None when no seat has two verdicts: the group teaches nothing.
    """

    @functools.wraps(baseline)
    def advantage(episodes_G: Sequence[Episode]) -> np.ndarray | None:
        advantages_G = np.zeros(len(episodes_G))
        usable = False
        for seat in {e.seat for e in episodes_G}:
            at = [i for i, e in enumerate(episodes_G) if e.seat == seat and e.reward is not None]
            if len(at) < 2:
                continue
            usable = True
            rewards = np.array([episodes_G[i].reward for i in at], dtype=np.float64)
            if rewards.max() > rewards.min():
                advantages_G[at] = baseline(rewards)
        return advantages_G if usable else None

    return advantage


@_by_seat
def mean(rewards_G: np.ndarray) -> np.ndarray:
    """A = r - mean(r): Dr. GRPO (Liu et al. 2025), which divides by no std."""
    return rewards_G - rewards_G.mean()


@_by_seat
def grpo(rewards_G: np.ndarray) -> np.ndarray:
    """A = (r - mean(r)) / (std(r) + 1e-6), the std with ddof 1 (DeepSeekMath 2024)."""
    return (rewards_G - rewards_G.mean()) / (rewards_G.std(ddof=1) + STD_EPS)


@_by_seat
def rloo(rewards_G: np.ndarray) -> np.ndarray:
    """A = r - mean of the others' r = G / (G - 1) (r - mean(r)) (Kool et al. 2019; Ahmadian et al. 2024)."""
    return (rewards_G - rewards_G.mean()) * (len(rewards_G) / (len(rewards_G) - 1))


def none(episodes_G: Sequence[Episode]) -> np.ndarray | None:
    """A = r, without a baseline (REINFORCE, Williams 1992); 0 for an episode without a verdict."""
    if all(e.reward is None for e in episodes_G):
        return None
    return np.array([0.0 if e.reward is None else e.reward for e in episodes_G], dtype=np.float64)


ADVANTAGES: dict[str, Advantage] = {"mean": mean, "grpo": grpo, "rloo": rloo, "batch_std": mean, "none": none}


def named(name: str) -> Advantage:
    """The group advantage of this name, or behind "pkg.mod:fn". Raises `ConfigError`."""
    if name in ADVANTAGES:
        return ADVANTAGES[name]
    module, _, attr = name.partition(":")
    try:
        function: Any = getattr(importlib.import_module(module), attr) if attr else None
    except (ImportError, AttributeError, TypeError, ValueError) as e:
        raise ConfigError(f"advantage={name!r}: {e}") from None
    if not callable(function):
        raise ConfigError(f"advantage={name!r}: must be one of {', '.join(ADVANTAGES)}, or pkg.mod:fn")
    return function  # type: ignore[return-value]


def advantages(name: str, groups_P: Sequence[Sequence[Episode]]) -> list[np.ndarray | None]:
    """For each group its episodes' advantages, float64 [G], or None where it teaches nothing.

    batch_std: r - mean(r) of the group, over the std (ddof 1) of all the batch's rewards plus 1e-6
    (Liu et al., "Tricks or Traps", 2025). Raises `EnvError` where a function of somebody's own gives
    what isn't one finite number an episode.
    """
    function = named(name)
    advantages_P = [
        _checked(function(episodes_G), episodes_G, name) if episodes_G else None for episodes_G in groups_P
    ]
    if name == "batch_std":
        rewards = [e.reward for episodes_G in groups_P for e in episodes_G if e.reward is not None]
        scale = (float(np.std(rewards, ddof=1)) if len(rewards) > 1 else 0.0) + STD_EPS
        advantages_P = [None if a is None else a / scale for a in advantages_P]
    return advantages_P


def _checked(advantages_G: np.ndarray | None, episodes_G: Sequence[Episode], name: str) -> np.ndarray | None:
    if advantages_G is None:
        return None
    advantages_G = np.asarray(advantages_G, dtype=np.float64)
    if advantages_G.shape != (len(episodes_G),) or not np.isfinite(advantages_G).all():
        raise EnvError(
            f"advantage={name} gave {advantages_G!r} for {len(episodes_G)} episodes, not a finite number each"
        )
    return advantages_G


def to_go(values_T: np.ndarray, discount: float) -> np.ndarray:
    """sum over j >= 0 of discount^j values[t + j], float64 [T]."""
    return lfilter([1.0], [1.0, -discount], values_T[::-1].astype(np.float64))[::-1]  # type: ignore[index]


def kl_penalty(
    divergence_N: Sequence[np.ndarray], coef: float, discount: float, centre: bool
) -> list[np.ndarray]:
    """What a KL penalty adds to the advantages of the action tokens of N episodes.

    divergence_N: d_t = log mu - log ref of each episode's action tokens, in order, whatever datums and
    observations lie between them. With K_t = sum_j discount^j d_(t+j): -coef K_t, or coef (mean K - K_t)
    with the mean over all action tokens of all episodes, so that the penalty shifts no mean advantage.
    """
    to_go_N = [to_go(divergence_T, discount) for divergence_T in divergence_N]
    shift = float(np.concatenate(to_go_N).mean()) if centre and any(map(len, to_go_N)) else 0.0
    return [coef * (shift - to_go_T) for to_go_T in to_go_N]


def off_policy_weights(kind: str, log_ratio_T: np.ndarray, cap: float) -> np.ndarray:
    """What an off-policy correction multiplies the advantages of a sequence's action tokens with.

    log_ratio_T: log pi_prox - log mu: the trainer before the step's first update against the sampler.
    token_truncate: min(ratio, cap), for a loss whose own ratio is taken to pi_prox (decoupled: Hilton et
    al. 2022; truncated importance sampling: Yao et al. 2025). token_mask: 1 where 1/cap <= ratio <= cap,
    else 0. sequence_mask: the same by the geometric mean of the whole sequence.
    """
    if kind == "token_truncate":
        return np.minimum(np.exp(log_ratio_T), cap)
    bound = np.log(cap)
    if kind == "token_mask":
        return (np.abs(log_ratio_T) <= bound).astype(np.float64)
    inside = len(log_ratio_T) > 0 and abs(float(log_ratio_T.mean())) <= bound
    return np.full(len(log_ratio_T), float(inside))
