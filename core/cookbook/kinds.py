"""The base config of each kind of plugin, and what a tracker is."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import chz

from .types import Episode, Grade, Message, Task


@chz.chz
class EnvConfig(abc.ABC):
    """An environment's options, and the tasks that follow from them."""

    # What `cookbook show` lists for an option with many values, {option: {value: a note, or ""}}. Like
    # `default_model` below, a plain class attribute.
    choices = {}
    # The least and the largest reward of an episode, which `cookbook check` holds the environment to.
    reward_range = (0.0, 1.0)
    # The options that a check builds it with, where its defaults need the network.
    check_with = {}

    @abc.abstractmethod
    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of "train" or "test", in a fixed order; lazy where there are many.

        Shuffling, epochs, batching and grouping belong to the loop.
        """


@chz.chz
class GraderConfig(abc.ABC):
    """A grader's options, and its verdict."""

    @abc.abstractmethod
    def grade(self, prompt: Sequence[Message], reply: Message, reference: Any) -> Grade:
        """Judges one reply. May be an async function. Must not run what the reply says."""


@chz.chz
class DatasetConfig(abc.ABC):
    """A dataset's options, and its rows."""

    @abc.abstractmethod
    def rows(self, split: str) -> Sequence[Any] | Iterable[Any] | AsyncIterable[Any]:
        """Conversations (lists of `Message`) or comparisons, in a fixed order."""


@chz.chz
class BackendConfig(abc.ABC):
    """Where sampling and training happen."""

    default_model = ""  # what `--local` falls back on; a plain class attribute, not an option

    @abc.abstractmethod
    def connect(self, run_dir: Path) -> Any:
        """A service client with tinker's methods, used in a `with`; what it keeps on disk, in `run_dir`."""

    @abc.abstractmethod
    def tokenizer(self, model: str) -> Any:
        """The model's `cookbook.rendering.Tokenizer`, without loading the model."""

    def context(self, model: str) -> int | None:
        """How many tokens the model can attend to, without loading it; None where nobody says."""
        return None

    def rest_client(self, service: Any) -> Any:
        """What deletes checkpoints: `delete_checkpoint_from_tinker_path(path)`."""
        return service.create_rest_client()

    def describe(self) -> dict[str, Any]:
        """What of the machine the results depend on (processor, number type): kept in the record."""
        return {}


@chz.chz
class TrackerConfig(abc.ABC):
    """Where metrics go besides the run folder."""

    @abc.abstractmethod
    def open(self, run: Any) -> Tracker:
        """Begins to follow `run`, a `cookbook.runs.Run`."""


class Tracker(abc.ABC):
    """Follows one run. A row with a step seen before (after a resume) replaces the earlier one.

    `run.record` says what runs, and `run.step` where it begins: more than 0 after a resume.
    """

    def begin(self) -> None:
        """The run's folder is there."""

    @abc.abstractmethod
    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """One row of metrics, of the step-th batch from 0 on."""

    def evaluation(self, version: int, row: Mapping[str, Any]) -> None:
        """What held-out tasks or data gave, by the weights after `version` batches."""

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """Sampled transcripts of a step; nothing, unless the tracker shows them."""

    def close(self) -> None:
        """The run is over."""
