"""Log-probabilities of targets, and their gradient, without the logits of all rows at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_ROWS, _WORDS = 512, 2048
"""Of a block of logits: 4 MiB in float32."""


def target_logprobs(
    hidden_R: torch.Tensor, unembedding: torch.Tensor, rows_M: torch.Tensor, targets_M: torch.Tensor
) -> torch.Tensor:
    """log softmax(hidden[row] W^T)[target], float32 [M]; several targets may follow one row.

    hidden_R: [R, width]; unembedding: [vocabulary, width], without a gradient.

    The gradient of a row is sum_i g_i (W[target_i] - sum_v p_v W[v]). The mean of W under p is the output
    of attention whose keys and values are W, so it's gathered while the blocks of logits pass by, once,
    before g is known (as in FlashAttention, Dao et al. 2022). Targets are left out of that mean and added
    in float32, since for a confident row they all but cancel.
    """
    return _TargetLogprobs.apply(hidden_R, unembedding, rows_M, targets_M)


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_R, unembedding, rows_M, targets_M):
        words = len(unembedding)
        # Each pair of a row and a target once, in the order of the rows.
        pairs_U, pair_M = torch.unique(rows_M * words + targets_M, return_inverse=True)
        rows_U, targets_U = pairs_U // words, pairs_U % words
        logits_U = hidden_R.new_empty(len(pairs_U), dtype=torch.float32)
        lse_R = hidden_R.new_empty(len(hidden_R), dtype=torch.float32)
        rest_R = torch.empty_like(hidden_R) if ctx.needs_input_grad[0] else None
        for first in range(0, len(hidden_R), _ROWS):
            at = slice(first, first + _ROWS)
            of = slice(*torch.searchsorted(rows_U, rows_U.new_tensor([first, first + _ROWS])).tolist())
            found = _over_words(
                hidden_R[at], unembedding, rows_U[of] - first, targets_U[of], rest_R is not None
            )
            lse_R[at], logits_U[of] = found[0], found[1]
            if rest_R is not None:
                rest_R[at] = found[2]
        logprobs_U = logits_U - lse_R[rows_U]
        ctx.save_for_backward(unembedding, rows_U, targets_U, pair_M, logprobs_U, rest_R)
        return logprobs_U[pair_M]

    @staticmethod
    def backward(ctx, grad_M):
        unembedding, rows_U, targets_U, pair_M, logprobs_U, rest_R = ctx.saved_tensors
        grad_U = torch.zeros_like(logprobs_U).index_add_(0, pair_M, grad_M)
        whole_R = grad_U.new_zeros(len(rest_R)).index_add_(0, rows_U, grad_U)
        # g (1 - p) - (g of the row's other targets) p: exact where there is no other and p is near 1.
        others_U = whole_R[rows_U] - grad_U
        factors_U = -grad_U * logprobs_U.expm1() - others_U * logprobs_U.exp()
        d_hidden = rest_R.float() * -whole_R[:, None]
        for at in torch.arange(len(rows_U), device=rows_U.device).split(_ROWS):
            d_hidden.index_add_(0, rows_U[at], unembedding[targets_U[at]].float() * factors_U[at, None])
        return d_hidden.to(rest_R.dtype), None, None, None


def _over_words(hidden, unembedding, rows_U, targets_U, with_mean: bool):
    """Of a block of rows, a block of words at a time: log sum exp of the logits [R], the targets' logits
    [U], both float32, and the mean of W under p with the targets left out [R, width]."""
    top = hidden.new_full((len(hidden), 1), float("-inf"), dtype=torch.float32)
    total, mean = torch.zeros_like(top), hidden.new_zeros(hidden.shape, dtype=torch.float32)
    logits_U = hidden.new_empty(len(rows_U), dtype=torch.float32)
    for first in range(0, len(unembedding), _WORDS):
        words = unembedding[first : first + _WORDS]
        logits = F.linear(hidden, words).float()
        (at,) = ((targets_U >= first) & (targets_U < first + len(words))).nonzero(as_tuple=True)
        here = rows_U[at], targets_U[at] - first
        logits_U[at] = logits[here]
        above = torch.maximum(top, logits.amax(-1, keepdim=True))
        shrunk, top = (top - above).exp_(), above
        p = logits.sub_(top).exp_()
        total = total * shrunk + p.sum(-1, keepdim=True)
        if with_mean:
            p[here] = 0.0
            mean.mul_(shrunk).add_(p.to(words.dtype) @ words)
    return (top + total.log())[:, 0], logits_U, (mean / total).to(hidden.dtype)
