"""Attention over cached keys and values, for tokens of a prompt and for rows that are being decoded.

A token's result depends on the keys before it alone: in which portion of a prompt it stands, whether it was
part of a prompt or decoded, and what is computed beside it change no bit. For that the keys are taken in
blocks whose borders never move, each in a product of one size, and the blocks' results are weighed together
in one order, as in FlashAttention (Dao et al. 2022, section 3.1). What is left rests on how the processor's
kernels round, so it is tried before it is relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F

from .shape import LlamaShape

FIRST_BLOCK = 128
"""Keys of the first block, and the least that a cache has room for."""
_LONGEST_BLOCK = 512
_VECTORS = 64  # entries that any processor's vectors divide: what is left over goes through scalar code
_ONE_THREAD = 32768  # entries up to which torch gives an elementwise operation to one thread
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Form:
    """tokens: of a prompt, that attend together. The queries that share a key head are padded to a multiple
    of `queries`."""

    tokens: int
    queries: int


# From the fastest to the one where every product has one size, whatever the sequence, and can't round
# otherwise. What is padded is masked, and so multiplied by an exact 0.
FORMS = (Form(32, 1), Form(32, 8), Form(32, 32), Form(1, 32))


class Portion(Protocol):
    """Some rows of a forward pass. count: how many."""

    @property
    def count(self) -> int: ...

    def attend(self, layer: int, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        """Writes the rows' keys and values [count, 2 kv_heads, D] to the cache, then attends with their
        queries [count, heads, D]."""
        ...


class Decoded:
    """One token of each of some sequences. kv: their cache, [layers, rows, 2 kv_heads, capacity, D].
    lengths: of what it holds of each."""

    def __init__(self, kv: torch.Tensor, lengths: Sequence[int], form: Form) -> None:
        self.count, self._kv, self._form = len(lengths), kv, form
        self._lengths = torch.tensor(lengths, device=kv.device)
        self._at = torch.arange(self.count, device=kv.device)
        self._blocks = list(_key_blocks(self._lengths[:, None], kv.dtype))

    def attend(self, layer: int, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        held = self._kv[layer]
        held[self._at, :, self._lengths] = kv
        return _attend(q[:, None], held[: self.count], self._blocks, self._form)


class Prompt:
    """The next tokens of one sequence, from `first` on. kv: [layers, 2 kv_heads, capacity, D]."""

    def __init__(self, kv: torch.Tensor, first: int, count: int, groups: int, form: Form) -> None:
        """groups: query heads that share a key head."""
        self.count, self._kv, self._first, self._form = count, kv, first, form
        at = torch.arange(_up(count, form.tokens), device=kv.device).clamp_(max=count - 1) + first
        at = at.view(-1, form.tokens)
        self._parts = len(at)
        self._blocks = list(_key_blocks(at.repeat(1, groups) if form.tokens > 1 else at, kv.dtype))

    def attend(self, layer: int, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        held = self._kv[layer]
        held[:, self._first : self._first + self.count] = kv.transpose(0, 1)
        tokens = self._form.tokens
        q = F.pad(q, (0, 0, 0, 0, 0, self._parts * tokens - self.count)).unflatten(0, (-1, tokens))
        seen = held[None].expand(self._parts, -1, -1, -1)
        return _attend(q, seen, self._blocks, self._form)[: self.count]


@dataclass(frozen=True)
class _Block:
    """Some keys. rows: the parts of a pass from the first that sees one of them. bias: what is added to
    their scores, 0 or -inf, [rows, 1, n, keys]; blind: which queries see none, [rows, 1, n]."""

    keys: slice
    rows: slice
    bias: torch.Tensor
    blind: torch.Tensor


def capacity(tokens: int) -> int:
    """The length of a cache for so many tokens: the end of the last block that they reach."""
    return [last for _, last in _borders(tokens)][-1]


def _borders(tokens: int) -> Iterator[tuple[int, int]]:
    """Of the blocks of so many keys: 0, 128, 256, 512, 1024, and on in steps of 512."""
    first, last = 0, FIRST_BLOCK
    while first < tokens:
        yield first, last
        first, last = last, last + min(last, _LONGEST_BLOCK)


def _in_blocks(x: torch.Tensor) -> bool:
    """Not on a GPU: nothing is claimed there, and one block of all keys is faster."""
    return x.device.type == "cpu"


def _key_blocks(at: torch.Tensor, dtype: torch.dtype) -> Iterator[_Block]:
    """The blocks that queries at positions [rows, n] see."""
    lasts = at[:, -1].tolist()
    seen = max(lasts) + 1
    for first, last in _borders(seen) if _in_blocks(at) else [(0, capacity(seen))]:
        rows = slice(next(i for i, position in enumerate(lasts) if position >= first), None)
        unseen = torch.arange(first, last, device=at.device) > at[rows, None, :, None]
        bias = torch.zeros(unseen.shape, dtype=dtype, device=at.device).masked_fill_(unseen, float("-inf"))
        yield _Block(slice(first, last), rows, bias, at[rows, None] < first)


def find_form(shape: LlamaShape, dtype: torch.dtype, device: torch.device) -> Form:
    """The fastest form in which a token's bits are its own; on a GPU the fastest, and no claim."""
    if device.type != "cpu":
        return FORMS[0]
    return _first_that_holds(shape.heads, shape.kv_heads, shape.head_dim, dtype, torch.get_num_threads())


@cache
def _first_that_holds(heads: int, kv_heads: int, dim: int, dtype: torch.dtype, threads: int) -> Form:
    """With so many threads, those of torch."""
    generator = torch.Generator().manual_seed(0)
    q, kv = (torch.randn(600, h, dim, generator=generator).to(dtype) for h in (heads, 2 * kv_heads))
    return next((form for form in FORMS[:-1] if _holds(form, q, kv)), FORMS[-1])


def _attend(q: torch.Tensor, kv: torch.Tensor, blocks: Sequence[_Block], form: Form) -> torch.Tensor:
    """q [b, t, heads, D], kv [b, 2 kv_heads, L, D] -> [b t, heads, D].

    The query heads that share a key head stand as queries of one head, a head's tokens together.
    """
    b, t, heads, dim = q.shape
    kv_heads = kv.shape[1] // 2
    n = heads // kv_heads * t
    q = q.view(b, t, kv_heads, -1, dim).permute(0, 2, 3, 1, 4).reshape(b, kv_heads, n, dim)
    q = F.pad(q, (0, 0, 0, -n % form.queries)) if n % form.queries else q
    out, lse = _of_block(q, kv, blocks[0])
    for block in blocks[1:]:
        rows = block.rows
        part, part_lse = _of_block(q[rows], kv[rows], block)
        lse[rows], old, new = _weighed(lse[rows], part_lse.masked_fill(block.blind, float("-inf")))
        out = out.float()
        out[rows] = out[rows] * old[..., None] + part * new[..., None]
    return out[:, :, :n].unflatten(2, (-1, t)).permute(0, 3, 1, 2, 4).reshape(b * t, heads, dim).to(q.dtype)


def _of_block(q: torch.Tensor, kv: torch.Tensor, block: _Block) -> tuple[torch.Tensor, torch.Tensor]:
    """q [b, kv_heads, n, D] -> the output under these keys alone, as q, and the logarithm of its softmax's
    denominator, [b, kv_heads, n]; nothing there where all keys are one block."""
    k, v = kv[:, :, block.keys].chunk(2, dim=1)
    bias = block.bias.expand(-1, -1, q.shape[2], -1)
    if not _in_blocks(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias), q.new_empty(0)
    return _flash(q, k, v, 0.0, False, attn_mask=bias)


def _weighed(old: torch.Tensor, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of two logarithms of the same shape: log (e^old + e^new), and the share of each in it. In whole
    vectors and one thread's pieces: scalar code rounds otherwise."""
    shape, size = old.shape, old.numel()
    old, new = (F.pad(x.reshape(-1), (0, -size % _VECTORS)) for x in (old, new))
    parts = []
    for a, b in zip(old.split(_ONE_THREAD), new.split(_ONE_THREAD), strict=True):
        both = torch.logaddexp(a, b)
        parts.append((both, (a - both).exp_(), (b - both).exp_()))
    both, a, b = (torch.cat(x)[:size].view(shape) for x in zip(*parts, strict=True))
    return both, a, b


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _holds(form: Form, q: torch.Tensor, kv: torch.Tensor) -> bool:
    """Whether a sequence, q [T, heads, D] and kv [T, 2 kv_heads, D], comes out with the same bits whole, in
    portions, and decoded in company."""
    groups, length = q.shape[1] * 2 // kv.shape[1], len(q)

    def room(*rows: int, extra: int = 0) -> torch.Tensor:
        return kv.new_zeros(1, *rows, kv.shape[1], capacity(length + extra), kv.shape[2])

    whole = Prompt(room(), 0, length, groups, form).attend(0, q, kv)
    part, first = room(extra=600), 0
    for count in (1, 2, 3, 5, 11, 17, 33, 64, 90, 128, length - 354):
        at = slice(first, first + count)
        if not torch.equal(Prompt(part, first, count, groups, form).attend(0, q[at], kv[at]), whole[at]):
            return False
        first += count
    for positions in (range(0, length, 53), range(7, 90, 2), (300,), (31,)):
        rows, at = room(len(positions)), list(positions)
        rows[0, :, :, :length] = kv.transpose(0, 1)
        if not torch.equal(Decoded(rows, at, form).attend(0, q[at], kv[at]), whole[at]):
            return False
    return True


Attended = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def side_by_side(portions: list[Portion]) -> Attended:
    """The attention of a pass whose rows are those of some portions, then padding."""

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        kv, first, out = torch.cat([k, v], 1), 0, []
        for portion in portions:
            last = first + portion.count
            out.append(portion.attend(layer, q[first:last], kv[first:last]))
            first = last
        if first < len(q):
            out.append(q[first:])
        return torch.cat(out) if len(out) > 1 else out[0]

    return attend
