"""Datums as prefix trees: what several share at their beginning is computed once.

The layout is a pure function of the order of the datums and of the token budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Tree:
    """Distinct prefixes of some sequences, a row each; a parent's row comes before its children's.

    ids_N, depth_N: int64, the token and its position. sees_NN: bool, row i attends to row j.
    rows_D: for each sequence, the rows of its tokens, int64 [T].
    """

    ids_N: torch.Tensor
    depth_N: torch.Tensor
    sees_NN: torch.Tensor
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


class _Builder:
    def __init__(self) -> None:
        self.children: dict[tuple[int, int], int] = {}
        self.ids: list[int] = []
        self.parents: list[int] = []
        self.rows_D: list[np.ndarray] = []

    def size_with(self, tokens: Sequence[int]) -> int:
        row = -1
        for shared, token in enumerate(tokens):
            row = self.children.get((row, token), -2)
            if row == -2:
                return len(self.ids) + len(tokens) - shared
        return len(self.ids)

    def add(self, tokens: Sequence[int]) -> None:
        row, rows = -1, []
        for token in tokens:
            at = self.children.get((row, token))
            if at is None:
                at = self.children[row, token] = len(self.ids)
                self.ids.append(token)
                self.parents.append(row)
            rows.append(at)
            row = at
        self.rows_D.append(np.array(rows, dtype=np.int64))

    def tree(self) -> Tree:
        n = len(self.ids)
        sees_NN, depth = np.zeros((n, n), dtype=bool), np.zeros(n, dtype=np.int64)
        for row, parent in enumerate(self.parents):
            if parent >= 0:
                sees_NN[row] = sees_NN[parent]
                depth[row] = depth[parent] + 1
            sees_NN[row, row] = True
        return Tree(torch.tensor(self.ids), torch.from_numpy(depth), torch.from_numpy(sees_NN), self.rows_D)
