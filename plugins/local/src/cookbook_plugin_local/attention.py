"""Attention over a tree of tokens, part by part, and its gradient.

A row's keys lie in several parts: its chain, and each chain above. A part gives its output and the
logarithm of its softmax's denominator; the denominators weigh the outputs together, as in FlashAttention
(Dao et al. 2022, section 3.1). Backward, a part's probabilities are taken under the whole denominator,
so each part's gradient stands alone, and what several add to one key adds up in float32, in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .llama import Attend
from .packing import Part, Tree

_DENSE = torch.contiguous_format
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class _Work:
    """A part's rows and keys, and what is added to their scores: [n, n] float32, 0 or -inf."""

    rows: slice
    keys: slice
    causal: bool
    bias: torch.Tensor | None


def tree_attention(tree: Tree, device: torch.device) -> Attend:
    """Each row of the tree attends to its path from the root."""
    works = [_work(part, device) for part in tree.parts]
    return lambda layer, q, k, v: _TreeAttention.apply(works, q, k, v)


def _work(part: Part, device: torch.device) -> _Work:
    bias = None
    if part.sees is not None:
        bias = torch.zeros(part.sees.shape).masked_fill_(~torch.from_numpy(part.sees), float("-inf"))
        bias = bias.to(device)
    rows, keys = slice(part.first, part.last), slice(part.key_first, part.key_last)
    return _Work(rows, keys, part.causal, bias)


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, works: Sequence[_Work], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor):
        """q [N, heads, D], k and v [N, kv_heads, D] -> [N, heads, D]."""
        out = torch.empty_like(q, memory_format=_DENSE)
        out_q = _by_group(out, k.shape[1])
        q_, k_, v_ = (_by_group(x, k.shape[1]) for x in (q, k, v))
        lse = q.new_full(q_.shape[:-1], float("-inf"), dtype=torch.float32)
        seen = 0  # the rows before this one have something already
        for work in works:
            rows, keys = work.rows, work.keys
            part, part_lse = _attend(q_[:, :, rows], k_[:, :, keys], v_[:, :, keys], work)
            if rows.start >= seen:
                out_q[:, :, rows], lse[:, :, rows] = part, part_lse
                seen = rows.stop
            else:
                both = torch.logaddexp(lse[:, :, rows], part_lse)
                old, new = ((x - both).exp_()[..., None] for x in (lse[:, :, rows], part_lse))
                out_q[:, :, rows] = out_q[:, :, rows] * old + part * new
                lse[:, :, rows] = both
        ctx.works = works
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx, *grads: torch.Tensor):
        *tensors, lse = ctx.saved_tensors
        q, k, v = tensors[:3]
        dq, dk, dv = (torch.zeros_like(x, dtype=torch.float32, memory_format=_DENSE) for x in (q, k, v))
        q_, k_, v_, out_, grad_, dq_, dk_, dv_ = (
            _by_group(x.float(), k.shape[1]) for x in (*tensors, grads[0], dq, dk, dv)
        )
        for work in ctx.works:
            rows, keys = work.rows, work.keys
            of_rows = [x[:, :, rows] for x in (grad_, q_, out_)]
            part = _gradient(of_rows, k_[:, :, keys], v_[:, :, keys], lse[:, :, rows], work)
            dq_[:, :, rows] += part[0]
            dk_[:, :, keys] += part[1].sum(0)
            dv_[:, :, keys] += part[2].sum(0)
        return None, dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _has_kernel(x: torch.Tensor) -> bool:
    """Of attention that gives its denominators, under any mask: processors have one, GPUs none."""
    return x.device.type == "cpu"


def _by_group(x: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[N, heads, D] -> [heads / kv_heads, kv_heads, N, D], a view: those that share keys are a batch."""
    return x.unflatten(1, (kv_heads, -1)).permute(2, 1, 0, 3)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, work: _Work
) -> tuple[torch.Tensor, torch.Tensor]:
    """q [G, kv_heads, n, D], k and v [1, kv_heads, m, D] -> the output, as q, and the logarithm of the
    denominators, float32 [G, kv_heads, n]."""
    k, v = (x.expand(len(q), -1, -1, -1) for x in (k, v))
    if _has_kernel(q):
        bias = None if work.bias is None else work.bias.to(q.dtype)
        return _flash(q, k, v, 0.0, work.causal, attn_mask=bias)
    scores = _scores(q, k, work)
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp_().to(q.dtype) @ v, lse


def _gradient(
    of_rows: Sequence[torch.Tensor], k: torch.Tensor, v: torch.Tensor, lse: torch.Tensor, work: _Work
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of q, k and v, each [G, kv_heads, n, D], from (d out, q, out) as in `_attend`, all float32: in bfloat16
    the kernel would add up in bfloat16 what many rows give to one key, and is slower on a chat's length."""
    grad, q, out = of_rows
    k, v = (x.expand(len(q), -1, -1, -1) for x in (k, v))
    if _has_kernel(q):
        return _flash_backward(grad, q, k, v, out, lse, 0.0, work.causal, attn_mask=work.bias)
    p = (_scores(q, k, work) - lse[..., None]).exp_()
    ds = p * (grad @ v.transpose(-1, -2) - (grad * out).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
    return ds @ k, ds.transpose(-1, -2) @ q, p.transpose(-1, -2) @ grad


def _scores(q: torch.Tensor, k: torch.Tensor, work: _Work) -> torch.Tensor:
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if work.causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        return scores.masked_fill(later, float("-inf"))
    return scores if work.bias is None else scores + work.bias
