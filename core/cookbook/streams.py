"""Randomness without state: streams keyed by what they are for, and a permutation keyed by index.

Nothing here depends on the order in which things happen, so a run can be repeated, and resumed at
any step, to the bit.
"""

from __future__ import annotations

import hashlib


def stream(*key: int | str) -> int:
    """A seed in [0, 2**62) that is a pure function of its key, such as (seed, step, group, seat, turn)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def shuffled(index: int, n: int, *key: int | str) -> int:
    """Where `index` of [0, n) goes in a permutation of [0, n) chosen by `key`, in O(1) memory.

    A Feistel network over the next even power of two, walked until it falls into [0, n)
    (Black & Rogaway, "Ciphers with Arbitrary Finite Domains", 2002): four steps at most on average.
    """
    if not 0 <= index < n:
        raise IndexError(f"index {index} is outside [0, {n})")
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round in range(4):
            left, right = right, left ^ (stream(*key, round, right) & mask)
        index = left << half | right
        if index < n:
            return index
