"""Prefix trees, for any sequences."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook_plugin_local import packing
from cookbook_plugin_local.packing import pack

# Three tokens, so that prefixes are shared and repeated often.
SEQUENCE = st.lists(st.integers(0, 2), min_size=1, max_size=8)
SEQUENCES = st.lists(SEQUENCE, min_size=1, max_size=12)
BUDGET = st.integers(1, 30)


def for_all(*strategies):
    return lambda test: settings(deadline=None, database=None)(given(*strategies)(test))


@pytest.fixture(params=[1, 3, 128], autouse=True, scope="module")
def block(request):
    """From no masks at all to one over every tree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_BLOCK", request.param)
        yield request.param


def entries_of(part):
    """How often row i of the part sees its key j."""
    rows, keys = part.last - part.first, part.key_last - part.key_first
    if part.sees is not None:
        return part.sees.astype(int)
    return np.tri(rows, dtype=int) if part.causal else np.ones((rows, keys), dtype=int)


def seen(tree):
    """How often row i sees key j, over all parts."""
    sees_NN = np.zeros((len(tree.ids_N), len(tree.ids_N)), dtype=int)
    for part in tree.parts:
        sees_NN[part.first : part.last, part.key_first : part.key_last] += entries_of(part)
    return sees_NN


def cost(tree):
    """Entries of rows and keys that are computed; a kernel leaves out what lies above a causal diagonal."""
    return sum(
        entries_of(part).size if part.sees is not None else entries_of(part).sum() for part in tree.parts
    )


def prefixes(sequences):
    return {tuple(s[: i + 1]) for s in sequences for i in range(len(s))}


def with_sequences(trees, sequences):
    """Each tree beside the sequences in it."""
    first = 0
    for tree in trees:
        last = first + len(tree.rows_D)
        yield tree, sequences[first:last]
        first = last
    assert first == len(sequences)


@for_all(SEQUENCES, BUDGET)
def test_every_sequences_rows_spell_its_tokens(sequences, budget):
    for tree, inside in with_sequences(pack(sequences, budget), sequences):
        assert [tree.ids_N[rows].tolist() for rows in tree.rows_D] == inside


@for_all(SEQUENCES, BUDGET)
def test_no_prefix_has_two_rows(sequences, budget):
    for tree, inside in with_sequences(pack(sequences, budget), sequences):
        assert len(tree.ids_N) == len(tree.depth_N) == len(prefixes(inside))


@for_all(SEQUENCES, BUDGET)
def test_a_row_sees_exactly_its_prefix_once_at_their_depths(sequences, budget):
    for tree in pack(sequences, budget):
        expected = np.zeros_like(seen(tree))
        for rows in tree.rows_D:
            assert tree.depth_N[rows].tolist() == list(range(len(rows)))
            for i, row in enumerate(rows):
                expected[row, rows[: i + 1]] = 1
        assert (seen(tree) == expected).all()
        assert expected.any(axis=1).all()


@for_all(SEQUENCES, BUDGET)
def test_a_row_meets_its_own_part_or_one_above_before_what_lies_between(sequences, budget):
    """The first part of a row is never one that begins before rows already met: results start there."""
    for tree in pack(sequences, budget):
        met = 0
        for part in tree.parts:
            assert part.first >= met or part.last <= met
            met = max(met, part.last)
        assert met == len(tree.ids_N)


@for_all(SEQUENCES, BUDGET)
def test_parents_come_before_their_children(sequences, budget):
    for tree in pack(sequences, budget):
        assert all((rows[1:] > rows[:-1]).all() for rows in tree.rows_D)


@for_all(SEQUENCES, BUDGET)
def test_a_tree_over_the_budget_holds_one_sequence_and_no_tree_could_take_the_next(sequences, budget):
    packed = list(with_sequences(pack(sequences, budget), sequences))
    for tree, inside in packed:
        assert len(tree.ids_N) <= budget or len(inside) == 1
    for (_, inside), (_, after) in pairwise(packed):
        assert len(prefixes([*inside, after[0]])) > budget


@for_all(SEQUENCES, BUDGET, st.permutations(range(3)))
def test_the_layout_depends_on_order_and_budget_only(sequences, budget, names):
    first = pack(sequences, budget)
    renamed = pack([[names[t] for t in s] for s in sequences], budget)
    assert len(first) == len(renamed)
    for a, b in zip(first, renamed, strict=True):
        assert [r.tolist() for r in a.rows_D] == [r.tolist() for r in b.rows_D]
        assert (seen(a) == seen(b)).all()
        assert [(p.first, p.last, p.key_first, p.key_last) for p in a.parts] == [
            (p.first, p.last, p.key_first, p.key_last) for p in b.parts
        ]


@for_all(SEQUENCE, SEQUENCES)
def test_duplicates_share_all_rows(sequence, others):
    (tree,) = pack([sequence, *others, sequence], 10_000)
    assert tree.rows_D[0].tolist() == tree.rows_D[-1].tolist()
    (without,) = pack([sequence, *others], 10_000)
    assert len(tree.ids_N) == len(without.ids_N)


def test_no_sequences_make_no_tree():
    assert pack([], 10) == []


def test_a_lone_sequence_needs_no_mask(block):
    (tree,) = pack([[1] * 500], 10_000)
    (part,) = tree.parts
    assert part.causal and (part.first, part.last) == (0, 500)


def test_distinct_chats_cost_what_each_costs_alone(block):
    """And not the square of all their tokens."""
    (tree,) = pack([[i] * 200 for i in range(8)], 10_000)
    assert cost(tree) == 8 * 200 * 201 / 2
    assert all(part.causal for part in tree.parts)


def test_long_answers_to_a_long_prompt_attend_along_their_paths_alone(block):
    prompt, answers = list(range(1000)), [[5000 + i] * 300 for i in range(16)]
    (tree,) = pack([prompt + answer for answer in answers], 100_000)
    assert len(tree.ids_N) == 1000 + 16 * 300
    assert all(part.sees is None for part in tree.parts)
    assert cost(tree) == 1000 * 1001 / 2 + 16 * (300 * 1000 + 300 * 301 / 2)


def test_short_answers_share_a_mask_no_larger_than_a_block(block):
    prompt, answers = list(range(1000)), [[5000 + i] * 10 for i in range(40)]
    (tree,) = pack([prompt + answer for answer in answers], 100_000)
    sizes = [len(part.sees) for part in tree.parts if part.sees is not None]
    assert max(sizes, default=0) <= block
    assert bool(sizes) == (block == 128)
    assert cost(tree) <= 1000 * 1001 / 2 + 400 * 1000 + 400 * max(block, 10)


def test_a_branch_at_every_token_is_no_deeper_than_the_stack_takes(block):
    """Each sequence goes on from within the one before."""
    sequences = [[1] * i + [2] * 5 for i in range(1, 1500)]
    (tree,) = pack(sequences, 10**9)
    assert len(tree.ids_N) == 1499 * (1 + 5)
