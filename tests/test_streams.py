"""Randomness that is a pure function of its key."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook.streams import shuffled, stream

KEYS = st.lists(st.integers(0, 2**40) | st.sampled_from(["order", "eval"]), max_size=4)
# printf %s 0/7/3/1/0/2 | b2sum -l 64, the bytes read from the last to the first, without the two lowest bits
WORKED = {
    (0,): 1315768752945694962,
    (0, 7, 3, 1, 0, 2): 3470080174474587556,
    (5, "eval", 11): 1075668231894938869,
}


@settings(database=None, deadline=None, max_examples=40)
@given(n=st.integers(1, 2000), key=KEYS)
def test_a_shuffle_is_a_permutation(n, key):
    assert sorted(shuffled(i, n, *key) for i in range(n)) == list(range(n))


def test_each_key_shuffles_in_its_own_way():
    orders = [[shuffled(i, 100, *key) for i in range(100)] for key in [(0, 0), (0, 1), (1, 0), (0,), ()]]
    assert len({tuple(order) for order in orders}) == len(orders)
    assert list(range(100)) not in orders


def test_a_shuffle_moves_most_things_far():
    moved = [abs(shuffled(i, 1000, 3) - i) for i in range(1000)]
    assert 250 < sum(moved) / 1000 < 420  # a third of n, for a random permutation
    assert sum(m == 0 for m in moved) < 8


@pytest.mark.parametrize("gap", [1, 32, 512])
def test_a_shuffle_tears_apart_what_lies_in_step(gap):
    at = [shuffled(i, 1024, 0) for i in range(1024)]
    near = sum(abs(a - b) < 32 for a, b in zip(at, at[gap:], strict=False)) / (1024 - gap)
    assert near < 0.1  # 0.06 for a random permutation


def test_a_place_among_a_billion_takes_a_few_hashes(monkeypatch):
    hashes = []
    monkeypatch.setattr("cookbook.streams.stream", lambda *key: hashes.append(key) or stream(*key))
    n = 10**9
    places = [shuffled(i, n, 0, "order", 2) for i in (0, 1, 2, n // 2, n - 1)]
    assert len(set(places)) == 5
    assert all(0 <= place < n for place in places)
    assert len(hashes) <= 5 * 4 * 12


@pytest.mark.parametrize(("index", "n"), [(-1, 5), (5, 5), (0, 0), (10**9, 10**9)])
def test_an_index_outside_is_refused(index, n):
    with pytest.raises(IndexError, match=rf"index {index} is outside \[0, {n}\)"):
        shuffled(index, n)


@pytest.mark.parametrize("key", WORKED)
def test_a_seed_never_changes(key):
    assert stream(*key) == WORKED[key]


def test_a_seed_is_the_same_in_another_process():
    script = "from cookbook.streams import stream; print(stream(5, 'eval', 11))"
    seeds = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": s}, capture_output=True, check=True
        ).stdout
        for s in ("1", "2")
    }
    assert seeds == {f"{stream(5, 'eval', 11)}\n".encode()}


@given(key=KEYS)
@settings(database=None, deadline=None)
def test_a_seed_fits_a_signed_integer(key):
    assert 0 <= stream(*key) < 2**62


def test_every_part_of_a_key_makes_another_stream():
    base = (0, 1, 2, 3, 4)
    keys = [base, *(base[:i] + (base[i] + 1,) + base[i + 1 :] for i in range(5)), base[:4], (*base, 0)]
    keys += [("a/b",), ("a", "b"), (1, 23), (12, 3), (123,), (1, 2, 3), ("eval", 1), ("eval1",), (1, "eval")]
    assert len({stream(*key) for key in keys}) == len(keys)
