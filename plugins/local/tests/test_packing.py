"""Prefix trees, for any sequences."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cookbook_plugin_local.packing import pack

# Three tokens, so that prefixes are shared and repeated often.
SEQUENCE = st.lists(st.integers(0, 2), min_size=1, max_size=8)
SEQUENCES = st.lists(SEQUENCE, min_size=1, max_size=12)
BUDGET = st.integers(1, 30)


def for_all(*strategies):
    return lambda test: settings(deadline=None, database=None)(given(*strategies)(test))


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
def test_a_row_sees_exactly_its_prefix_at_their_depths(sequences, budget):
    for tree in pack(sequences, budget):
        assert tree.sees_NN.dtype == torch.bool
        seen_rows = set()
        for rows in tree.rows_D:
            assert tree.depth_N[rows].tolist() == list(range(len(rows)))
            for i, row in enumerate(rows):
                assert tree.sees_NN[row].nonzero()[:, 0].tolist() == sorted(rows[: i + 1])
                seen_rows.add(int(row))
        assert seen_rows == set(range(len(tree.ids_N)))


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
        assert torch.equal(a.sees_NN, b.sees_NN)


@for_all(SEQUENCE, SEQUENCES)
def test_duplicates_share_all_rows(sequence, others):
    (tree,) = pack([sequence, *others, sequence], 10_000)
    assert tree.rows_D[0].tolist() == tree.rows_D[-1].tolist()
    (without,) = pack([sequence, *others], 10_000)
    assert len(tree.ids_N) == len(without.ids_N)


def test_no_sequences_make_no_tree():
    assert pack([], 10) == []
