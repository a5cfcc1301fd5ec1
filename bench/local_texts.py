"""Tokens for the benchmark of the local engine: windows of the manual that comes with Python."""

from __future__ import annotations

import random
from pydoc_data.topics import topics
from typing import Any

_LETTERS = 1_500_000


class Texts:
    """Windows that never overlap, in an order of the seed; begun anew where they run out."""

    def __init__(self, tokenizer: Any, seed: int = 0) -> None:
        text = "\n\n".join(topics[name] for name in sorted(topics))
        self._ids = tokenizer.encode(text[:_LETTERS])
        self._answer = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")
        self._end = tokenizer.encode("<|im_end|>")
        self._random = random.Random(seed)
        self._starts: list[int] = []

    def windows(self, n: int, length: int) -> list[list[int]]:
        """n windows of so many tokens. No two share a beginning, not even the first token."""
        found: dict[int, list[int]] = {}
        while len(found) < n:
            if not self._starts:
                self._starts = list(range(0, len(self._ids) - 512, 512))
                self._random.shuffle(self._starts)
            at = self._starts.pop()
            for start in range(at, at + 512 - length + 1, length):
                if len(found) < n and self._ids[start] not in found:
                    found[self._ids[start]] = self._ids[start : start + length]
        return list(found.values())

    def chats(self, n: int, length: int) -> list[list[int]]:
        """n chats of so many tokens: a question, whose opening tokens are left out since all would share
        them, and an answer three times as long."""
        around = len(self._answer) + len(self._end)
        chats = []
        for window in self.windows(n, length - around):
            asked = len(window) // 4
            chats.append(window[:asked] + self._answer + window[asked:] + self._end)
        return chats
