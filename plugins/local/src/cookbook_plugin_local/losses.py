"""The losses that a trainer can be asked for by name: formulas on log-probabilities, which know of no model.

Notation: pi the trained weights, mu the weights that sampled (`logprobs` are theirs), rho = pi / mu,
A the advantage, sg stops the gradient. Each is a sum over target tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from cookbook.errors import BackendError

Tensors = Mapping[str, torch.Tensor]
Settings = Mapping[str, float]

LOW, HIGH = "clip_low_threshold", "clip_high_threshold"


@dataclass(frozen=True)
class Loss:
    """One row of the table.

    inputs: what a datum brings besides `target_tokens`, each of their shape.
    where: a token takes part where one of these inputs isn't 0; none: every token does.
    formula: (log pi [M] in nats, the inputs [M] and `datum` [M], int64, the datum that an entry is of,
    settings) -> the loss of each entry [M]. A datum's entries always come together.
    settings: the keys of `loss_fn_config` that it takes, with their defaults.
    optional: those of them that a datum may bring as inputs, target by target, instead.
    """

    name: str
    inputs: tuple[str, ...]
    where: tuple[str, ...]
    formula: Callable[[torch.Tensor, Tensors, Settings], torch.Tensor]
    settings: Settings = field(default_factory=dict)
    optional: tuple[str, ...] = ()


def find_loss(name: str, config: Mapping[str, float | str] | None = None) -> Loss:
    """The loss of this name with its settings. Raises `BackendError` for what it doesn't take."""
    if name not in LOSSES:
        raise BackendError(f"local/torch has no loss {name!r}; it has {', '.join(LOSSES)}")
    loss, given = LOSSES[name], config or {}
    for key, value in given.items():
        if key not in loss.settings:
            takes = " and ".join(loss.settings) or "no loss_fn_config"
            raise BackendError(f"local/torch: {name} takes {takes}, not {key!r}")
        if not isinstance(value, int | float) or math.isnan(value):
            raise BackendError(f"local/torch: {name}: {key}={value!r} must be a number")
    settings = {key: float(given.get(key, default)) for key, default in loss.settings.items()}
    if LOW in settings and settings[LOW] > settings[HIGH]:
        raise BackendError(
            f"local/torch: {name}: {LOW}={settings[LOW]} is above {HIGH}={settings[HIGH]}; both are ratios, "
            "like 0.8 and 1.2"
        )
    return replace(loss, settings=settings)


def _cross_entropy(logp: torch.Tensor, x: Tensors, c: Settings) -> torch.Tensor:
    return -x["weights"] * logp


def _importance_sampling(logp: torch.Tensor, x: Tensors, c: Settings) -> torch.Tensor:
    """-rho A (Kakade & Langford 2002)."""
    return -_ratio(logp, x) * x["advantages"]


def _ppo(logp: torch.Tensor, x: Tensors, c: Settings) -> torch.Tensor:
    """-min(rho A, clip(rho) A) (Schulman et al. 2017)."""
    return _clipped(_ratio(logp, x), x)


def _cispo(logp: torch.Tensor, x: Tensors, c: Settings) -> torch.Tensor:
    """-sg(clip(rho)) A log pi: a clipped token keeps its gradient (MiniMax-M1 2025)."""
    return -_ratio(logp.detach(), x).clamp(x[LOW], x[HIGH]) * x["advantages"] * logp


def _gspo(logp: torch.Tensor, x: Tensors, c: Settings) -> torch.Tensor:
    """-min(s_t A, clip(s_t) A), s_t = sg(s) pi / sg(pi), s the geometric mean of rho over those of the
    datum's tokens where `sequence_ratio_mask` isn't 0 (Zheng et al. 2025, GSPO-token).

    Raises `BackendError` for a datum with an advantage and no such token.
    """
    datum, masked = x["datum"], x["sequence_ratio_mask"] != 0
    log_rho = torch.where(masked, logp.detach() - x["logprobs"], 0.0)
    sums_D = log_rho.new_zeros(int(datum.max()) + 1).index_add(0, datum, log_rho)
    count = torch.zeros_like(sums_D).index_add(0, datum, masked.to(sums_D.dtype))[datum]
    if bool(((count == 0) & (x["advantages"] != 0)).any()):
        raise BackendError(
            "gspo: a datum has advantages and a sequence_ratio_mask of zeros; the mask is 1 on the tokens "
            "whose ratio counts, the sampled ones"
        )
    s = (sums_D[datum] / count.clamp(min=1)).exp()
    return _clipped(s * (logp - logp.detach()).exp(), x)


def _dro(logp: torch.Tensor, x: Tensors, c: Settings) -> torch.Tensor:
    """-(A log pi - beta/2 (log pi - log mu)^2), also where A is 0 (Richemond et al. 2024)."""
    return -(x["advantages"] * logp - c["beta"] / 2 * (logp - x["logprobs"]).square())


def _ratio(logp: torch.Tensor, x: Tensors) -> torch.Tensor:
    return (logp - x["logprobs"]).exp()


def _clipped(ratio: torch.Tensor, x: Tensors) -> torch.Tensor:
    return -torch.minimum(ratio * x["advantages"], ratio.clamp(x[LOW], x[HIGH]) * x["advantages"])


_POLICY, _MASK = ("logprobs", "advantages"), "sequence_ratio_mask"
_CLIP = {LOW: 0.8, HIGH: 1.2}  # absolute ratios; the hosted service's defaults

LOSSES = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", ("weights",), ("weights",), _cross_entropy),
        Loss("importance_sampling", _POLICY, ("advantages",), _importance_sampling),
        Loss("ppo", _POLICY, ("advantages",), _ppo, _CLIP, (LOW, HIGH)),
        Loss("cispo", _POLICY, ("advantages",), _cispo, _CLIP, (LOW, HIGH)),
        Loss("gspo", (*_POLICY, _MASK), ("advantages", _MASK), _gspo, _CLIP, (LOW, HIGH)),
        Loss("dro", _POLICY, (), _dro, {"beta": 0.05}),
    )
}
