"""The parts of a layer so that a row's bits don't depend on the rows beside it, without a gradient.

Which kernel a product library takes, and so how it rounds, depends on the number of rows, but not on where
among them a row stands. A product of any number of rows is made here of products of a few sizes which
round alike, on this processor and with this number of threads: they are tried at first use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_ONE_THREAD = 32768  # entries up to which torch gives an elementwise operation to one thread
_CHUNK = 32  # rows where no sizes round alike
_TRIED = 2**22  # entries of the largest result that is tried
_DRAWN = 512  # rows of the weight that is tried are drawn; they repeat


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """As `ops.norm`. weight: of the last dimension, or of the last two."""
    if weight.dim() == 1:
        return F.rms_norm(x, weight.shape, weight, eps).to(dtype)
    return (F.rms_norm(x, weight.shape[-1:], None, eps) * weight).to(dtype)


def linear(x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """As `ops.linear`. The adapter stays apart: merged into bf16 weights, most of a small update would be
    rounded away."""
    if weight.is_cuda:
        return F.linear(x, weight) + F.linear(F.linear(x, a), b)
    adapter = _in_sizes(x, _common(_alike(a), _alike(b)), lambda part: F.linear(F.linear(part, a), b))
    return product(x, weight).add_(adapter)


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
    """x [N, in], weight [out, in], packed or not -> x weight^T [N, out]. On a GPU nothing is tried, and
    nothing claimed."""
    if weight.is_cuda:
        return F.linear(x, weight)
    return _in_sizes(x, _alike(weight), lambda part: _product(part, weight))


def _in_sizes(
    x: torch.Tensor, sizes: tuple[int, ...], do: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """What `do` makes of all rows, asked for so many rows at once as `sizes` allow."""
    n = x.shape[0]
    if n in sizes:
        return do(x)
    parts, counts = [], split(n, sizes)
    for part in x.split(counts) if len(counts) > 1 else (x,):
        rows = part.shape[0]
        size = next(size for size in sizes if size >= rows)
        parts.append(do(F.pad(part, (0, 0, 0, size - rows)))[:rows] if size > rows else do(part))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _alike(weight: torch.Tensor) -> tuple[int, ...]:
    out, fan_in = weight.shape
    return alike(out, fan_in, weight.dtype, torch.get_num_threads(), weight.is_mkldnn)


@cache
def _common(some: tuple[int, ...], others: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of two groups; where they share none, one that is always taken."""
    return tuple(size for size in some if size in others) or (_CHUNK,)


def packed(weight: torch.Tensor) -> torch.Tensor:
    """A copy in the order in which oneDNN's products read it: with few rows, most of a product's time goes
    into bringing it into that order. The weight itself on a GPU, and where torch has no such products."""
    takes = hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and (
        weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    if weight.is_cuda or not takes:
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def _product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return F.linear(x, weight)


def even(n: int) -> int:
    """The number of rows, n or more, at which `product` copies least."""
    return next((size for size in SIZES if n <= size <= _CHUNK), -(-n // _CHUNK) * _CHUNK)


@cache
def split(n: int, sizes: tuple[int, ...]) -> list[int]:
    """How to part n rows, by `sizes`, rising: only the last part may be none of them and want padding, and
    that to no more than twice its size unless it's below the smallest."""
    parts = []
    while n > 0:
        above = next((size for size in sizes if size >= n), None)
        below = max((size for size in sizes if size <= n), default=None)
        size = above if above is not None and (below is None or above <= 2 * n) else below
        assert size is not None
        parts.append(min(size, n))
        n -= size
    return parts


@cache
def alike(out: int, fan_in: int, dtype: torch.dtype, threads: int, is_packed: bool) -> tuple[int, ...]:
    """The numbers of rows whose products with a weight [out, in] round alike, wherever a row stands, with so
    many threads, those of torch. is_packed: the weight is.

    Of all such groups the one that begins lowest and reaches 16, which serves single sequences and batches.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(min(out, _DRAWN), fan_in, generator=generator).div_(fan_in**0.5).to(dtype)
    weight = weight.repeat(-(-out // len(weight)), 1)[:out].contiguous()
    weight = packed(weight) if is_packed else weight
    x = torch.randn(SIZES[-1], fan_in, generator=generator).to(dtype)
    groups: list[tuple[torch.Tensor, list[int]]] = []
    for size in SIZES:
        if size > _CHUNK and size * out > _TRIED:
            break
        found, turned = _product(x[:size], weight), _product(x[:size].flip(0), weight)
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
