"""From rewards to advantages; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .types import Episode

Advantage = Callable[[Sequence[Episode]], "np.ndarray | None"]


def mean(episodes_G: Sequence[Episode]) -> np.ndarray | None:
    """A = r - mean(r) of the group, seat by seat (Dr. GRPO, Liu et al. 2025, without a std).

    Returns float64 [G]; 0 for an episode without a verdict, which counts in no mean. None when no
    seat has two verdicts: such a group teaches nothing and is dropped. Exactly 0 where all rewards of
    a seat are equal (subtracting a float mean leaves 1e-17).
    """
    advantages_G = np.zeros(len(episodes_G))
    usable = False
    for seat in {e.seat for e in episodes_G}:
        at = [i for i, e in enumerate(episodes_G) if e.seat == seat and e.reward is not None]
        if len(at) < 2:
            continue
        usable = True
        rewards = np.array([episodes_G[i].reward for i in at], dtype=np.float64)
        if rewards.max() > rewards.min():
            advantages_G[at] = rewards - rewards.mean()
    return advantages_G if usable else None


ADVANTAGES: dict[str, Advantage] = {"mean": mean}
