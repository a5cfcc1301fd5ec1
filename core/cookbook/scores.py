"""What episodes of held-out tasks say of a model, with how sure one may be; pure functions.

All standard errors are clustered by task (Miller, "Adding Error Bars to Evals", 2024): the samples of one
task resemble each other, so that they count for less than as many tasks would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .metrics import of_play, summarize
from .types import Episode


def of_tasks(groups_P: Sequence[Sequence[Episode]]) -> dict[str, float]:
    """Everything of an evaluation: a group of episodes a task, none where its environment failed.

    What `summarize` says, with standard errors of the mean reward and of `correct` clustered by task; tasks:
    those played; failed: those that an environment's error dropped, which count nowhere else; pass@k, see
    `pass_at`; and all of `of_play`.
    """
    played = [group for group in groups_P if group]
    episodes = [episode for group in played for episode in group]
    row = summarize(episodes)
    errors = {
        "reward_se": clustered_se([[e.reward for e in g if e.reward is not None] for g in played]),
        "correct_se": clustered_se([[float(v) for v in verdicts(g)] for g in played]),
    }
    row.pop("correct_se", None)  # the binomial's knows no tasks
    row |= {name: value for name, value in errors.items() if value is not None}
    row |= {"tasks": len(played), "failed": len(groups_P) - len(played)}
    row |= pass_at(played)
    return row | (of_play(episodes) if episodes else {})


def verdicts(group: Sequence[Episode]) -> list[bool]:
    """Those that there are: what is undecided is neither right nor wrong."""
    return [episode.correct for episode in group if episode.correct is not None]


def clustered_se(clusters: Sequence[Sequence[float]]) -> float | None:
    """The standard error of the mean over all values, by the clusters that they come in; None for fewer than
    two clusters.

    With m the mean, N values, C clusters that aren't empty: sqrt(C / (C - 1) sum_c (sum_i (x_ci - m))^2) / N.
    It is Miller's, with the correction for few clusters that inspect-ai makes too; with one value a cluster,
    the sample's standard deviation over sqrt(N).
    """
    clusters = [values for values in clusters if values]
    if len(clusters) < 2:
        return None
    n = sum(map(len, clusters))
    mean = math.fsum(x for values in clusters for x in values) / n
    between = math.fsum(math.fsum(x - mean for x in values) ** 2 for values in clusters)
    return math.sqrt(len(clusters) / (len(clusters) - 1) * between) / n


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, drawn without replacement, hold one of the c right ones, which is the
    unbiased estimate of pass@k: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} samples with {c} right")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def pass_at(groups_P: Sequence[Sequence[Episode]]) -> dict[str, float]:
    """pass@k for k = 1, 2, 4, ... below the samples of a task, and for all of them, with its standard error
    as pass@k_se: the mean over tasks of `pass_at_k`.

    Of a task, only samples with a verdict count; pass@k_tasks says how many tasks have k of them at least,
    and the others are left out. A task of several seats is estimated seat by seat.
    """
    seats_P = [_by_seat(group) for group in groups_P]
    most = max((len(seat) for seats in seats_P for seat in seats), default=0)
    row: dict[str, float] = {}
    powers = [2**i for i in range(most.bit_length()) if 2**i < most]
    for k in [*powers, *([most] if most else [])]:
        found = [_pass_at(seats, k) for seats in seats_P]
        values = [value for task in found for value in task]
        if not values:
            continue
        row[f"pass@{k}"] = math.fsum(values) / len(values)
        error = clustered_se(found)
        row |= {} if error is None else {f"pass@{k}_se": error}
        row[f"pass@{k}_tasks"] = sum(map(bool, found))
    return row


def _pass_at(seats: Sequence[Sequence[Episode]], k: int) -> list[float]:
    return [pass_at_k(len(found), sum(found), k) for found in map(verdicts, seats) if len(found) >= k]


def _by_seat(group: Sequence[Episode]) -> list[list[Episode]]:
    return [[e for e in group if e.seat == seat] for seat in sorted({e.seat for e in group})]


def paired(before: Sequence[Sequence[Episode]], after: Sequence[Sequence[Episode]]) -> dict[str, Any]:
    """The same tasks played by two models, task by task.

    correct and reward: both means, and of the differences of the tasks' means, over the tasks where both have
    one, the mean and its standard error, which pairing makes smaller than that of two evaluations apart
    (Miller 2024). right_to_wrong, wrong_to_right: numbers of tasks; right is a task of whose
    verdicts more than half are.
    """
    pairs = list(zip(before, after, strict=True))
    row: dict[str, Any] = {"tasks": len(pairs)}
    verdicts_P = [(verdicts(a), verdicts(b)) for a, b in pairs]
    rewards_P = [tuple([e.reward for e in g if e.reward is not None] for g in pair) for pair in pairs]
    for name, values_P in (("correct", verdicts_P), ("reward", rewards_P)):
        means = [(_mean(a), _mean(b)) for a, b in values_P if a and b]
        if means:
            row[name] = {
                "tasks": len(means),
                "before": _mean([a for a, _ in means]),
                "after": _mean([b for _, b in means]),
                "difference": _mean([b - a for a, b in means]),
                "difference_se": clustered_se([[b - a] for a, b in means]),
            }
    right_P = [(2 * sum(a) > len(a), 2 * sum(b) > len(b)) if a and b else None for a, b in verdicts_P]
    row["right_to_wrong"] = [i for i, right in enumerate(right_P) if right == (True, False)]
    row["wrong_to_right"] = [i for i, right in enumerate(right_P) if right == (False, True)]
    return row


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
