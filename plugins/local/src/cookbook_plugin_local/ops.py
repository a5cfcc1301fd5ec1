"""The parts of a layer that autograd would make slow: each one function with its gradient.

They save little and compute the rest again, and work through a few rows at a time, so that what is
between a part's first and last elementwise operation stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

_CHUNK = 1 << 16
"""Entries of a piece: 256 KiB in float32, of which a few fit a core's second-level cache."""


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """x / rms(x) * weight over the last dimension, in float32, given in `dtype` (Zhang & Sennrich 2019)."""
    return _Norm.apply(x, weight, eps, dtype)


def linear(x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """x [N, in] -> x W^T + x A^T B^T [N, out]; W has no gradient. A: [rank, in], B: [out, rank]."""
    return _Linear.apply(x, weight, a, b)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of x [N, heads, D], the two halves of D as the pairs (Su et al. 2021).

    cos, sin: [N, 1, D], float32, without a gradient; the sine of the first half with a minus.
    """
    return _Rotate.apply(x, cos, sin)


def gate(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of [N, gate and up], each half as wide."""
    return _Gate.apply(gate_up)


def _pieces(x: torch.Tensor) -> Iterator[slice]:
    step = max(1, _CHUNK * len(x) // max(1, x.numel()))
    return (slice(first, first + step) for first in range(0, len(x), step))


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype):
        out = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
        scale = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        for at in _pieces(x):
            part = x[at].float()
            torch.rsqrt(part.square().mean(-1, keepdim=True).add_(eps), out=scale[at])
            out[at] = (part * scale[at]).mul_(weight)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        x, weight, scale = ctx.saved_tensors
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        for at in _pieces(x):
            unit, g = x[at].float() * scale[at], grad[at].float() * weight
            along = (g * unit).mean(-1, keepdim=True)
            dx[at] = g.sub_(unit.mul_(along)).mul_(scale[at])
        return dx, None, None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor):
        low = F.linear(x, a)
        ctx.save_for_backward(x, weight, a, b, low)
        return F.linear(x, weight).addmm_(low, b.T)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        x, weight, a, b, low = ctx.saved_tensors
        d_low = grad @ b
        dx = (grad @ weight).addmm_(d_low, a) if ctx.needs_input_grad[0] else None
        return dx, None, d_low.T @ x, grad.T @ low


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor):
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, -1.0), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: float) -> torch.Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    half = x.shape[-1] // 2
    cos, sin = cos[..., :half], sin[..., half:]
    for at in _pieces(x):
        part = x[at].float()
        a, b = part[..., :half], part[..., half:]
        out[at, :, :half] = (a * cos[at]).addcmul_(b, sin[at], value=-sign)
        out[at, :, half:] = (b * cos[at]).addcmul_(a, sin[at], value=sign)
    return out


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: torch.Tensor):
        ctx.save_for_backward(gate_up)
        n, width = gate_up.shape
        out = gate_up.new_empty((n, width // 2))
        for at in _pieces(out):
            gate, up = gate_up[at].chunk(2, dim=-1)
            torch.mul(F.silu(gate), up, out=out[at])
        return out

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (gate_up,) = ctx.saved_tensors
        d_gate_up = torch.empty_like(gate_up)
        for at in _pieces(grad):
            (gate, up), (d_gate, d_up) = gate_up[at].chunk(2, dim=-1), d_gate_up[at].chunk(2, dim=-1)
            torch.mul(F.silu(gate), grad[at], out=d_up)
            torch.ops.aten.silu_backward.grad_input(grad[at] * up, gate, grad_input=d_gate)
        return d_gate_up
