"""The parts of a layer so that a row's bits don't depend on the rows beside it, without a gradient.

Which kernel a product library takes, and so how it rounds, depends on the number of rows, but not on where
among them a row stands. A product of any number of rows is made here of products of a few sizes which
round alike, on this processor and with this number of threads: they are tried at first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_ONE_THREAD = 32768  # entries up to which torch gives an elementwise operation to one thread
_CHUNK = 32  # rows where no sizes round alike
_TRIED = 2**24  # entries of the largest result that is tried
_DRAWN = 512  # rows of the weight that is tried are drawn; they repeat


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """As `ops.norm`. weight: of the last dimension, or of the last two."""
    if weight.dim() == 1:
        return F.rms_norm(x, weight.shape, weight, eps).to(dtype)
    return (F.rms_norm(x, weight.shape[-1:], None, eps) * weight).to(dtype)


def linear(x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """As `ops.linear`. The adapter stays apart: merged into bf16 weights, most of a small update would be
    rounded away."""
    return product(x, weight) + product(product(x, a), b)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As `ops.rotate`."""
    return (x * cos + x.roll(x.shape[-1] // 2, -1) * sin).to(x.dtype)


def gate(gate_up: torch.Tensor) -> torch.Tensor:
    """As `ops.gate`. Where several threads would share the tensor with a border inside a vector, in pieces
    for one thread each: entries at such a border go through scalar code, which rounds otherwise."""
    x, up = gate_up.chunk(2, dim=-1)
    parts = min(torch.get_num_threads(), -(-x.numel() // _ONE_THREAD))
    if parts <= 1 or -(-x.numel() // parts) % 64 == 0 or x.is_cuda:
        return F.silu(x) * up
    return torch.cat([F.silu(part) for part in x.split(max(1, _ONE_THREAD // x.shape[-1]))]) * up


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [N, in], weight [out, in] -> x weight^T [N, out]. On a GPU nothing is tried, and nothing claimed."""
    if weight.is_cuda:
        return F.linear(x, weight)
    sizes = alike(*weight.shape, weight.dtype, torch.get_num_threads())
    if len(x) in sizes:
        return F.linear(x, weight)
    parts, done = [], 0
    for size in split(len(x), sizes):
        part = x[done : done + size]
        parts.append(F.linear(F.pad(part, (0, 0, 0, size - len(part))), weight)[: len(part)])
        done += len(part)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def even(n: int) -> int:
    """The number of rows, n or more, at which `product` copies least."""
    return next((size for size in SIZES if n <= size <= _CHUNK), -(-n // _CHUNK) * _CHUNK)


def split(n: int, sizes: Sequence[int]) -> list[int]:
    """Sizes, rising in `sizes`, that hold n rows together; only the last may be padded, and it is no more
    than twice too large unless it is the smallest there is."""
    parts = []
    while n > 0:
        above = next((size for size in sizes if size >= n), None)
        below = max((size for size in sizes if size <= n), default=None)
        size = above if above is not None and (below is None or above <= 2 * n) else below
        assert size is not None
        parts.append(size)
        n -= size
    return parts


@cache
def alike(out: int, fan_in: int, dtype: torch.dtype, threads: int) -> tuple[int, ...]:
    """The numbers of rows whose products with a weight [out, in] round alike, wherever a row stands, with so
    many threads, those of torch.

    Of all such groups the one that begins lowest and reaches 16, which serves single sequences and batches.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(min(out, _DRAWN), fan_in, generator=generator).div_(fan_in**0.5).to(dtype)
    weight = weight.repeat(-(-out // len(weight)), 1)[:out].contiguous()
    x = torch.randn(SIZES[-1], fan_in, generator=generator).to(dtype)
    groups: list[tuple[torch.Tensor, list[int]]] = []
    for size in SIZES:
        if size > _CHUNK and size * out > _TRIED:
            break
        found, turned = F.linear(x[:size], weight), F.linear(x[:size].flip(0), weight)
        if not torch.equal(found, turned.flip(0)):
            continue  # a row's place matters, so this size is of no use
        for i, (rows, group) in enumerate(groups):
            n = min(len(rows), size)
            if torch.equal(rows[:n], found[:n]):
                groups[i] = (found, [*group, size])
                break
        else:
            groups.append((found, [size]))
    reaching = [tuple(group) for _, group in groups if group[-1] >= 16]
    return min(reaching, default=(_CHUNK,))
