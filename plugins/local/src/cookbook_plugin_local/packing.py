"""Datums as prefix trees: what several share at their beginning is computed once.

A tree's rows stand in preorder, so that the rows below a chain of tokens follow it at once. Attention is
then a list of rectangles of rows and keys, and what it costs follows the paths that there are.

The layout is a pure function of the order of the datums and of the token budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

_BLOCK = 128
"""Rows up to which neighbouring branches share one rectangle under a mask: below that, the kernels' fixed
costs outweigh the entries that the mask throws away."""


@dataclass(frozen=True)
class Part:
    """Rows [first, last) attend to the keys of rows [key_first, key_last).

    Either these are the same rows: a chain, causal, or several branches, by `sees`, bool [n, n]. Or the
    rows are all that stands below the chain of the keys, and each sees every key.
    """

    first: int
    last: int
    key_first: int
    key_last: int
    sees: np.ndarray | None = None

    @property
    def causal(self) -> bool:
        return self.first == self.key_first and self.sees is None


@dataclass(frozen=True)
class Tree:
    """Distinct prefixes of some sequences, a row each, in preorder; several first tokens make several roots.

    ids_N, depth_N: int64 [N], the token and its position.
    parts: what attends to what. Each pair of a row and a key that it sees is in exactly one.
    rows_D: for each sequence, the rows of its tokens, int64 [T].
    """

    ids_N: np.ndarray
    depth_N: np.ndarray
    parts: tuple[Part, ...]
    rows_D: list[np.ndarray]


def pack(sequences: Sequence[Sequence[int]], token_budget: int) -> list[Tree]:
    """Trees of at most `token_budget` rows, sequences in order; one longer than the budget stands alone."""
    trees: list[Tree] = []
    builder = _Builder()
    for tokens in sequences:
        if builder.rows_D and builder.size_with(tokens) > token_budget:
            trees.append(builder.tree())
            builder = _Builder()
        builder.add(tokens)
    if builder.rows_D:
        trees.append(builder.tree())
    return trees


@dataclass
class _Builder:
    """Rows in the order in which their prefixes came; -1 is above the roots."""

    at: dict[tuple[int, int], int] = field(default_factory=dict)  # (parent, token) -> row
    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    rows_D: list[list[int]] = field(default_factory=list)

    def size_with(self, tokens: Sequence[int]) -> int:
        row = -1
        for shared, token in enumerate(tokens):
            row = self.at.get((row, token), -2)
            if row == -2:
                return len(self.ids) + len(tokens) - shared
        return len(self.ids)

    def add(self, tokens: Sequence[int]) -> None:
        row, rows = -1, []
        for token in tokens:
            at = self.at.get((row, token))
            if at is None:
                at = self.at[row, token] = len(self.ids)
                self.ids.append(token)
                self.parents.append(row)
            rows.append(at)
            row = at
        self.rows_D.append(rows)

    def tree(self) -> Tree:
        n = len(self.ids)
        sizes = np.ones(n + 1, dtype=np.int64)  # of the subtrees; the last is the whole's, and one more
        for row in range(n - 1, -1, -1):
            sizes[self.parents[row]] += sizes[row]
        place, next_free = np.zeros(n, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
        depth, parents = np.zeros(n, dtype=np.int64), np.full(n, -1, dtype=np.int64)
        for row, parent in enumerate(self.parents):  # a parent comes before its children
            at = place[row] = next_free[parent]
            next_free[parent] += sizes[row]
            next_free[row] = at + 1
            if parent >= 0:
                depth[at], parents[at] = depth[place[parent]] + 1, place[parent]
        ids, sizes_N = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        ids[place], sizes_N[place] = self.ids, sizes[:n]
        rows_D = [place[np.array(rows, dtype=np.int64)] for rows in self.rows_D]
        return Tree(ids, depth, tuple(_parts(sizes_N, parents)), rows_D)


def _parts(sizes: np.ndarray, parents: np.ndarray) -> Iterator[Part]:
    """sizes, parents: of the subtree below each row, itself included, and the row above it; in preorder."""
    waiting = [(0, len(sizes))]  # ranges of rows: branches that part from one place
    while waiting:
        first, end = waiting.pop()
        while first < end:
            last = first + int(sizes[first])
            while last < end and last + sizes[last] - first <= _BLOCK:
                last += int(sizes[last])
            chain = _chain_end(sizes, first)
            if chain < last and last - first <= _BLOCK:
                yield Part(first, last, first, last, _sees(parents, first, last))
            else:
                yield Part(first, chain, first, chain)
                last = first + int(sizes[first])
                if chain < last:
                    yield Part(chain, last, first, chain)
                    waiting.append((chain, last))
            first = last


def _chain_end(sizes: np.ndarray, first: int) -> int:
    """The row after the last of the chain that begins here: each of its rows but the last has one child."""
    end = first + int(sizes[first])
    while first + 1 < end and first + 1 + sizes[first + 1] == end:
        first += 1
    return first + 1


def _sees(parents: np.ndarray, first: int, last: int) -> np.ndarray:
    sees = np.eye(last - first, dtype=bool)
    for row in range(first, last):
        if parents[row] >= first:
            sees[row - first] |= sees[parents[row] - first]
    return sees
