"""One family of reasoning-gym: its options checked, its items made quietly and as functions of an index."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from cookbook.errors import ConfigError
from cookbook.streams import stream

SEEDS = 2**31  # of the first item; with an index below 2**31 numpy takes their sum for a seed too
# These make a table as long as the dataset when they are built: each item is of a small dataset of its own.
_OF_THEIR_OWN = {"acre": 5, "gsm_symbolic": 1, "list_functions": 1}


class Family:
    """The items of one family. Raises `ConfigError` for options that it doesn't have or refuses.

    options: of the family's own config, as JSON gives them. seed: item i of another seed is another item.
    """

    def __init__(self, name: str, options: Mapping[str, Any], seed: int) -> None:
        self.name, self._options = name, dict(options)
        self._first = stream("reasoning/gym", name, seed) % SEEDS
        self.dataset = self._make(self._first)
        self.dataset.size = SEEDS  # some look at it when an item is asked for
        _settle_order(self.dataset)

    def item(self, index: int) -> dict[str, Any]:
        """{"question", "answer", "metadata"}, a pure function of seed and index in [0, 2**31)."""
        size = _OF_THEIR_OWN.get(self.name)
        if size is None:
            with quiet(self._first + index):
                return self.dataset[index]
        dataset = self._make(self._first + index, size)
        with quiet(self._first + index):
            return dataset[index % size]

    def _make(self, seed: int, size: int = 1) -> Any:
        with quiet(seed):
            from reasoning_gym.factory import DATASETS

            make, config = DATASETS[self.name]
            fields = {field.name for field in dataclasses.fields(config)} - {"seed", "size"}
            unknown = sorted(set(self._options) - fields)
            if unknown:
                have = f"it has {', '.join(sorted(fields))}" if fields else "it has none"
                raise ConfigError(f"options: {self.name} has no option {unknown[0]!r}; {have}")
            try:
                return make(config=config(**self._options, seed=seed, size=size))
            except Exception as e:  # asserts, and what a wrong type leads to
                reason = " ".join(f"{e}".split()) or type(e).__name__
                raise ConfigError(f"options: {self.name} refuses {self._options}: {reason}") from e


class _Sorted(set):
    """A set that is gone through in the same order in every process."""

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(super().__iter__()))

    def __sub__(self, other: Any) -> _Sorted:
        return _Sorted(super().__sub__(other))


def _settle_order(dataset: Any) -> None:
    """Where a family draws from a set, whose order is another in every process."""
    if isinstance(getattr(dataset, "letters", None), set):  # isomorphic_strings, ransom_note
        dataset.letters = _Sorted(dataset.letters)
    for graph in getattr(dataset, "word_graphs", {}).values():  # word_ladder
        for word, neighbors in graph.items():
            graph[word] = sorted(neighbors)
    if hasattr(dataset, "_get_monomials"):  # polynomial_multiplication
        monomials = dataset._get_monomials
        dataset._get_monomials = lambda rng: sorted(monomials(rng), key=str)


@contextlib.contextmanager
def quiet(seed: int) -> Iterator[None]:
    """Keeps what is printed off standard output, hides warnings, and lends `random` and numpy's global
    generator a state that follows from `seed`: some families draw from them."""
    import numpy as np

    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
