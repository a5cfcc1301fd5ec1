"""Keys and values of what was computed: of sequences that are being decoded, and of prefixes that may come
again. A tensor of them is [layers, 2 kv_heads, T, D], a layer's keys first."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import torch

BLOCK = 32  # tokens of a prefix that are kept or forgotten together
_KEPT_BYTES = 2**29


class Held(Protocol):
    """A sequence in a pool. length: of its tokens, those whose keys and values are there."""

    place: int

    @property
    def length(self) -> int: ...


R = TypeVar("R", bound=Held)


class Pool(Generic[R]):
    """Sequences of up to `capacity` tokens, side by side. kv: [layers, slots, 2 kv_heads, capacity, D]."""

    def __init__(self, capacity: int, like: torch.Tensor) -> None:
        """like: keys and values of the same model."""
        self.capacity, self.rows = capacity, list[R]()
        self.kv = like.new_empty(like.shape[0], 0, like.shape[1], capacity, like.shape[3])

    def add(self, rows: Sequence[tuple[R, torch.Tensor]]) -> None:
        """Each with the keys and values of its tokens so far."""
        slots, needed = self.kv.shape[1], len(self.rows) + len(rows)
        if needed > slots:
            grown = self.kv.new_empty(len(self.kv), max(needed, slots * 3 // 2), *self.kv.shape[2:])
            grown[:, :slots] = self.kv
            self.kv = grown
        for row, kv in rows:
            row.place = len(self.rows)
            self.rows.append(row)
            self.read(row).copy_(kv[:, :, : row.length])
            # Zeros, not garbage: masked keys are multiplied by an exact 0, which garbage can turn into NaN.
            self.kv[:, row.place, :, row.length :].zero_()

    def read(self, row: R) -> torch.Tensor:
        """A view of the row's keys and values."""
        return self.kv[:, row.place, :, : row.length]

    def remove(self, row: R) -> None:
        """The last row takes its place."""
        last = self.rows.pop()
        if last is not row:
            self.kv[:, row.place, :, : last.length] = self.read(last)
            self.rows[row.place], last.place = last, row.place


Key = tuple[int, tuple[int, ...]]  # the block before, -1 for none, and a block's tokens


class Prefixes:
    """Blocks of keys and values of one snapshot of the weights, found by all tokens up to a block's end;
    those that were used least recently are forgotten first."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._blocks: OrderedDict[Key, tuple[int, torch.Tensor]] = OrderedDict()
        self._names = itertools.count()

    def find(self, tokens: Sequence[int]) -> tuple[list[torch.Tensor], Key]:
        """The blocks at the beginning of these tokens, and the key of the first that isn't there."""
        found, used = [], []
        for key in self._keys(tokens):
            if key not in self._blocks:
                break
            used.append(key)
            found.append(self._blocks[key][1])
        self._touch(used)
        return found, key

    def keep(self, tokens: Sequence[int], kv: torch.Tensor) -> None:
        """Keeps copies of the whole blocks of `kv`, which is of these tokens."""
        used = []
        for i, key in enumerate(self._keys(tokens)):
            if len(key[1]) < BLOCK:
                break
            if key not in self._blocks:
                block = kv[:, :, i * BLOCK : (i + 1) * BLOCK].clone()
                self._blocks[key] = next(self._names), block
            used.append(key)
        self._touch(used)
        size = sum(block.nbytes for _, block in itertools.islice(self._blocks.values(), 1))
        while len(self._blocks) * size > self._kept_bytes:
            self._blocks.popitem(last=False)

    def _keys(self, tokens: Sequence[int]) -> Iterator[Key]:
        """Of each block, the last of them perhaps not whole; a block's key needs the one before it."""
        before = -1
        for first in range(0, len(tokens) + 1, BLOCK):
            key = before, tuple(tokens[first : first + BLOCK])
            yield key
            if key not in self._blocks:
                return
            before = self._blocks[key][0]

    def _touch(self, keys: list[Key]) -> None:
        for key in reversed(keys):  # the first block last: without it the others aren't found
            self._blocks.move_to_end(key)
