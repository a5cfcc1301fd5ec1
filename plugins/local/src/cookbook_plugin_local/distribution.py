"""From logits to tokens and log-probabilities. A row's bits don't depend on the rows beside it: each step
is a kernel that works row by row, or exact however it is shared among threads."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_BLOCK = 256  # vocabulary entries in a block of the two-level inverse CDF


def log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of tokens under the raw distribution, in nats, float32 [n, k]; rounded as `choose` rounds them.

    logits: float32 [n, vocab]; tokens: int64 [n, k].
    """
    return _logprobs(logits, F.softmax(logits, -1), tokens)


def likeliest(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k likeliest tokens of each row, int64 [n, k], and their log-probabilities, float32 [n, k]."""
    tokens = logits.topk(k).indices
    return tokens, log_probabilities(logits, tokens)


def choose(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    uniforms: torch.Tensor,
    top_k: torch.Tensor | None = None,
    top_p: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row by the inverse CDF of softmax(logits / temperature); the largest at temperature 0.

    logits: float32 [n, vocab]; temperatures: float32 [n]; uniforms: float64 [n] in [0, 1). top_k int64 [n],
    top_p float64 [n]: see `truncated`. Returns the tokens, int64 [n], and their log-probabilities under the
    raw distribution, at temperature 1 and untruncated whatever was asked for, float32 [n]. Two levels,
    blocks and then entries, so that no running sum over the whole vocabulary is needed.
    """
    at, greedy = torch.arange(len(logits), device=logits.device), temperatures == 0
    raw = F.softmax(logits, -1)
    weights = raw
    if not bool((temperatures == 1).all()):
        weights = F.softmax(logits / temperatures.where(~greedy, 1)[:, None], -1)
    if top_k is not None and top_p is not None:
        weights = truncated(weights, top_k, top_p)
    blocks_of = _blocked(weights)
    blocks = blocks_of.sum(-1).double().cumsum(-1)
    target = _below(uniforms * blocks[:, -1], blocks[:, -1])
    block = (blocks <= target[:, None]).sum(-1)
    before = torch.where(block > 0, blocks[at, (block - 1).clamp(min=0)], 0.0)
    entries = blocks_of[at, block].double().cumsum(-1)
    entry = (entries <= _below(target - before, entries[:, -1])[:, None]).sum(-1)
    chosen = block * _BLOCK + entry
    if bool(greedy.any()):
        chosen = torch.where(greedy, logits.argmax(-1), chosen)
    return chosen, _logprobs(logits, raw, chosen[:, None])[:, 0]


def truncated(weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Probabilities [n, vocab] with 0 where a token isn't among the likeliest top_k (-1: all), or not among
    the fewest likeliest of those that hold a share top_p of them (Holtzman et al. 2020). The likeliest always
    stays; of equals the one with the lower id comes first."""
    rows = ((top_k > 0) | (top_p < 1)).nonzero()[:, 0]
    if not len(rows):
        return weights
    values, order = torch.sort(weights[rows], dim=-1, descending=True, stable=True)
    rank = torch.arange(values.shape[-1], device=weights.device)
    k = top_k[rows, None]
    values = torch.where((k < 0) | (rank < k), values, 0.0)
    upto = values.double().cumsum(-1)
    kept = (upto - values < top_p[rows, None] * upto[:, -1:]) | (rank == 0)
    out = weights.clone()
    out[rows] = torch.zeros_like(values).scatter_(-1, order, torch.where(kept, values, 0.0))
    return out


def _logprobs(logits: torch.Tensor, raw: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """raw: softmax of the logits. Its largest entry is 1 over the sum of exp(logits - largest)."""
    top = logits.amax(-1, keepdim=True)
    return logits.gather(-1, tokens) - top + raw.amax(-1, keepdim=True).log()


def _blocked(weights: torch.Tensor) -> torch.Tensor:
    """[n, vocab] as [n, blocks, _BLOCK]. A sum straight over the vocabulary would be split among threads
    where n is 1, and so rounded otherwise."""
    pad = -weights.shape[-1] % _BLOCK
    weights = F.pad(weights, (0, pad)) if pad else weights
    return weights.view(len(weights), -1, _BLOCK)


def _below(x: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """x, or the number just under the bound where rounding put x on it: an entry of probability 0 is
    never reached."""
    return torch.minimum(x, torch.nextafter(bound, torch.zeros_like(bound)))
