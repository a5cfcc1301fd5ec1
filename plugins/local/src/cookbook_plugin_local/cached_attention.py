"""Attention over cached keys and values, for tokens of a prompt and for rows that are being decoded.

A token's result depends on the keys before it alone: in which portion of a prompt it stands, whether it was
part of a prompt or decoded, and what is computed beside it change no bit. That rests on how the processor's
kernels round, so it is tried before it is relied on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F

from .shape import LlamaShape


@dataclass(frozen=True)
class Form:
    """tokens: of a prompt, that attend together. The queries that share a key head are padded to a multiple
    of `queries`, the keys to a multiple of `keys`."""

    tokens: int
    queries: int
    keys: int


# From the fastest to the one where every product has one size, whatever the sequence, and can't round
# otherwise. What is padded is masked, and so multiplied by an exact 0.
FORMS = (Form(32, 1, 32), Form(32, 8, 32), Form(32, 32, 512), Form(1, 32, 512))


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
    lengths: of what it holds of each, int64."""

    def __init__(self, kv: torch.Tensor, lengths: torch.Tensor, form: Form) -> None:
        self.count, self._kv, self._lengths, self._form = len(lengths), kv, lengths, form
        self._at = torch.arange(self.count, device=kv.device)
        self._seen = _up(int(lengths.max()) + 1, form.keys)
        self._mask = _mask(lengths[:, None], self._seen, kv.dtype)[:, :, :1]

    def attend(self, layer: int, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        held = self._kv[layer]
        held[self._at, :, self._lengths] = kv
        return _attend(q[:, None], held[: self.count, :, : self._seen], self._mask, self._form)


class Prompt:
    """The next tokens of one sequence, from `first` on. kv: [layers, 2 kv_heads, capacity, D]."""

    def __init__(self, kv: torch.Tensor, first: int, count: int, groups: int, form: Form) -> None:
        """groups: query heads that share a key head."""
        self.count, self._kv, self._first, self._form = count, kv, first, form
        self._seen = _up(first + count, form.keys)
        at = torch.arange(first, first + _up(count, form.tokens), device=kv.device).view(-1, form.tokens)
        mask = _mask(at, self._seen, kv.dtype)
        self._blocks, self._mask = len(at), mask.repeat(1, 1, groups, 1) if form.tokens > 1 else mask

    def attend(self, layer: int, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        held = self._kv[layer]
        held[:, self._first : self._first + self.count] = kv.transpose(0, 1)
        tokens = self._form.tokens
        q = F.pad(q, (0, 0, 0, 0, 0, self._blocks * tokens - self.count)).unflatten(0, (-1, tokens))
        seen = held[None, :, : self._seen].expand(self._blocks, -1, -1, -1)
        return _attend(q, seen, self._mask, self._form)[: self.count]


def capacity(tokens: int, form: Form) -> int:
    """The length of a cache for so many tokens."""
    return _up(tokens, max(form.keys, form.tokens))


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


def _attend(q: torch.Tensor, kv: torch.Tensor, mask: torch.Tensor, form: Form) -> torch.Tensor:
    """q [b, t, heads, D], kv [b, 2 kv_heads, L, D] -> [b t, heads, D].

    The query heads that share a key head stand as queries of one head, a head's tokens together.
    """
    b, t, heads, dim = q.shape
    kv_heads = kv.shape[1] // 2
    n = heads // kv_heads * t
    q = q.view(b, t, kv_heads, -1, dim).permute(0, 2, 3, 1, 4).reshape(b, kv_heads, n, dim)
    q = F.pad(q, (0, 0, 0, -n % form.queries)) if n % form.queries else q
    out = F.scaled_dot_product_attention(q, kv[:, :kv_heads], kv[:, kv_heads:], attn_mask=mask)
    return out[:, :, :n].unflatten(2, (-1, t)).permute(0, 3, 1, 2, 4).reshape(b * t, heads, dim)


def _mask(at: torch.Tensor, seen: int, dtype: torch.dtype) -> torch.Tensor:
    """Added to the scores of tokens at positions [b, t] against the first keys: [b, 1, t, seen]."""
    hidden = torch.arange(seen, device=at.device) > at[:, None, :, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=at.device).masked_fill_(hidden, float("-inf"))


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _holds(form: Form, q: torch.Tensor, kv: torch.Tensor) -> bool:
    """Whether a sequence, q [T, heads, D] and kv [T, 2 kv_heads, D], comes out with the same bits whole, in
    portions, and decoded in company."""
    groups, length = q.shape[1] * 2 // kv.shape[1], len(q)

    def room(*rows: int, extra: int = 0) -> torch.Tensor:
        return kv.new_zeros(1, *rows, kv.shape[1], capacity(length + extra, form), kv.shape[2])

    whole = Prompt(room(), 0, length, groups, form).attend(0, q, kv)
    part, first = room(extra=600), 0
    for count in (1, 2, 3, 5, 11, 17, 33, 64, 90, 128, length - 354):
        at = slice(first, first + count)
        if not torch.equal(Prompt(part, first, count, groups, form).attend(0, q[at], kv[at]), whole[at]):
            return False
        first += count
    for positions in (range(0, length, 53), range(7, 90, 2), (300,), (31,)):
        rows, at = room(len(positions)), torch.tensor(list(positions))
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
