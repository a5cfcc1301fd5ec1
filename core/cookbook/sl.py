"""Supervised learning: cross-entropy on the assistant's words in conversations.

Step b trains on examples [b B, (b + 1) B) of the epochs laid end to end, each epoch shuffled by the seed,
so that a step's number alone says where in the data a run is. Steps are submitted ahead of the results of
those before them; what is saved or evaluated after a step is submitted before the next, so it sees exactly
that step's weights.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import math
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import chz
import numpy as np

from .backends.base import Saved, Trainer, Update, together
from .configs import by_id, preset
from .data import Example, supervised_data, to_example
from .errors import ConfigError, RendererError
from .kinds import DatasetConfig
from .metrics import Clock, nll, of_supervised
from .preview import preview_examples
from .rendering import Renderer, Tokenizer, TrainOnWhat
from .runs import Run
from .schedule import Stopped, cancel
from .streams import shuffled
from .training import Checkpoints, TrainConfig
from .types import Message


@chz.chz(typecheck=True)
class SLConfig(TrainConfig):
    """One supervised run over the training split of `data`."""

    data: DatasetConfig = chz.field(
        meta_factory=by_id("dataset"), doc="conversations: an id, or my_module:MyData"
    )
    epochs: int = chz.field(default=1, doc="times that each conversation is trained on")
    steps: int = chz.field(default=0, doc="batches to train on; 0: as many as the epochs make")
    batch_size: int = chz.field(default=32, doc="conversations in a batch; an epoch's end cuts none short")
    max_length: int = chz.field(
        default=2048,
        doc="tokens of a conversation, more are cut off on the right; at most the model's context",
    )
    train_on: TrainOnWhat = chz.field(default="all_assistant_messages", doc="whose words are learned")
    reduction: Literal["example_mean", "token_mean", "token_sum"] = chz.field(
        default="example_mean", doc="each conversation counts alike, or each token; token_sum: undivided"
    )
    ahead: int = chz.field(default=1, doc="steps that are submitted before an earlier one's result is read")
    evals: tuple[DatasetConfig, ...] = chz.field(
        default=(), meta_factory=by_id("dataset", many=True), doc="datasets to evaluate on besides"
    )
    eval_examples: int = chz.field(
        default=200, doc="held-out conversations in an evaluation, from the first on"
    )

    @chz.validate
    def _check(self) -> None:
        self.at_least(0, "steps", "eval_examples", "ahead")
        self.at_least(1, "epochs", "batch_size")
        self.at_least(2, "max_length")

    def warnings(self) -> list[str]:
        """What can be done, and is likely not meant."""
        if self.grad_clip and self.reduction == "token_sum":
            return ["grad_clip on a gradient summed over tokens rescales every step; set reduction too"]
        return []

    async def run(self, run: Run) -> None:
        """Trains. Writes nothing before everything that it needs has been found."""
        sets = {"eval": self.data} | {f"eval.{i}": data for i, data in enumerate(self.evals)}
        held_out = {name: rows_of(data, "test", self.eval_examples) for name, data in sets.items()}
        train_rows = rows_of(self.data, "train")
        async with self.connect(run) as (service, client, renderer, facts):
            conversations = Conversations(self, train_rows, renderer)
            tests = {name: Conversations(self, rows, renderer) for name, rows in held_out.items() if rows}
            examples = {name: [test.example(i) for i in range(len(test))] for name, test in tests.items()}
            facts |= {"steps": conversations.steps, "data": fingerprint(train_rows)}
            run.begin(**facts, warnings=self.warnings(), trackers=self.trackers)
            trainer = Trainer(client, "cross_entropy")
            checkpoints = Checkpoints(self, run, trainer, self.backend.rest_client(service))
            await checkpoints.reopen()
            evaluation = HeldOut(trainer, examples, renderer, self.batch_size)
            await train(self, Parts(trainer, conversations, evaluation, checkpoints), run)

    async def dry_run(self) -> str:
        """The first conversation as it is trained on, and what a step costs; trains nothing."""
        renderer = self.render()
        conversations = Conversations(self, rows_of(self.data, "train"), renderer)
        return preview_examples(renderer, conversations.batch(0), conversations.steps)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop is made of."""

    trainer: Trainer
    conversations: Conversations
    held_out: HeldOut
    checkpoints: Checkpoints


async def train(cfg: SLConfig, parts: Parts, run: Run) -> None:
    """Every step is submitted as soon as at most `ahead` before it aren't read yet."""
    trainer, steps, clock = parts.trainer, parts.conversations.steps, Clock()
    pending: deque[Submitted] = deque()
    run.stoppable = True
    try:
        if cfg.evaluates(run.step, steps) and run.last_evaluated < run.step:
            pending.append(Submitted(run.step, evaluating=parts.held_out.submit()))
        for step in range(run.step, steps):
            if run.stop.is_set():
                raise Stopped
            examples_B, adam = parts.conversations.batch(step), cfg.adam(step, steps)
            trainer.accumulate(supervised_data(examples_B, cfg.reduction))
            item = Submitted(step + 1, examples_B, adam.learning_rate)
            pending.append(item)  # first, so that whatever is submitted for it is cancelled
            item.update = asyncio.ensure_future(trainer.step(adam))
            if cfg.saves(step + 1, steps):
                item.saving = asyncio.ensure_future(trainer.save(f"{step + 1:06d}"))
            if cfg.evaluates(step + 1, steps):
                item.evaluating = parts.held_out.submit()
            clock.lap("wait_for_data")
            while len(pending) > cfg.ahead:
                await read(pending, parts, run, clock)
        while pending:
            await read(pending, parts, run, clock)
    except Stopped:  # between two steps
        while pending:
            await read(pending, parts, run, clock)
        await parts.checkpoints.save(run.record["last_step"])
        raise
    finally:
        await cancel([task for item in pending for task in item.tasks()])


@dataclass(slots=True)
class Submitted:
    """What was submitted for one step, in this order: update, state to save, evaluation. done: batches that
    the weights have seen by then."""

    done: int
    examples_B: Sequence[Example] = ()
    lr: float = 0.0
    update: asyncio.Future[Update] | None = None
    saving: asyncio.Future[Saved] | None = None
    evaluating: asyncio.Future[dict[str, float]] | None = None

    def tasks(self) -> list[asyncio.Future[Any]]:
        return [task for task in (self.update, self.saving, self.evaluating) if task is not None]


async def read(pending: deque[Submitted], parts: Parts, run: Run, clock: Clock) -> None:
    """Waits for what was submitted for the first of these steps, writes it down, and takes it out."""
    item = pending[0]
    if item.update is not None:
        update = await item.update
        clock.lap("wait_for_update")
        row = of_supervised(item.examples_B, update) | {"lr": item.lr}
        row["epoch"] = parts.conversations.epoch(item.done - 1)
        run.log(item.done - 1, row | clock.row())
    if item.saving is not None:
        await parts.checkpoints.add(item.done, await item.saving)
        clock.lap("wait_for_checkpoint")
    if item.evaluating is not None:
        row = await item.evaluating
        run.evaluation(item.done, row)
        for tracker in run.trackers:
            tracker.evaluation(item.done, row)
        clock.lap("wait_for_evaluation")
    pending.popleft()


class Conversations:
    """Where in the data a step is: rendered when asked for, in O(1) memory beside the rows."""

    def __init__(self, cfg: SLConfig, rows: Sequence[Sequence[Message]], renderer: Renderer) -> None:
        if not len(rows):
            raise ConfigError(f"{type(cfg.data).__name__} has no training conversations")
        self._cfg, self._rows, self._renderer = cfg, rows, renderer
        self._max_length = min(cfg.max_length, cfg.backend.context(cfg.model) or cfg.max_length)
        self.steps = cfg.steps or math.ceil(cfg.epochs * len(rows) / cfg.batch_size)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, step: int) -> list[Example]:
        """The examples of one step; fewer than batch_size in the last of the epochs only."""
        first, last = step * self._cfg.batch_size, (step + 1) * self._cfg.batch_size
        if not self._cfg.steps:
            last = min(last, self._cfg.epochs * len(self._rows))
        return [self.example(self._at(i)) for i in range(first, last)]

    def epoch(self, step: int) -> float:
        """How often each conversation was trained on, by the end of this step."""
        return min(
            (step + 1) * self._cfg.batch_size / len(self._rows),
            self._cfg.epochs if not self._cfg.steps else math.inf,
        )

    def example(self, i: int) -> Example:
        """Row i, as tokens. Raises `ConfigError` for one that the chat format can't say."""
        try:
            rendered = self._renderer.build_supervised_example(
                self._rows[i], train_on_what=self._cfg.train_on
            )
        except RendererError as e:
            raise ConfigError(f"conversation {i} (from 0): {type(e).__name__}: {e}") from e
        return to_example(rendered, self._max_length)

    def _at(self, i: int) -> int:
        epoch, at = divmod(i, len(self._rows))
        return shuffled(at, len(self._rows), self._cfg.seed, "order", epoch)


class HeldOut:
    """Examples that are never trained on."""

    def __init__(
        self, trainer: Trainer, sets: Mapping[str, Sequence[Example]], renderer: Renderer, batch_size: int
    ) -> None:
        """sets: {prefix of the metrics: examples}."""
        self._trainer, self._sets, self._batch_size = trainer, sets, batch_size
        self._tokenizer = renderer.tokenizer

    def submit(self) -> asyncio.Future[dict[str, float]]:
        """Submits the passes over all sets, which see the weights as they are after all that was submitted
        before."""
        passes: dict[str, list[Coroutine[Any, Any, list[np.ndarray]]]] = {name: [] for name in self._sets}
        with contextlib.ExitStack() as unread:  # those that nobody comes to await
            for name, examples in self._sets.items():
                for at in range(0, len(examples), self._batch_size):
                    data_D = supervised_data(examples[at : at + self._batch_size], "token_sum")
                    passes[name].append(self._trainer.forward(data_D))
                    unread.callback(passes[name][-1].close)
            row, unread = asyncio.ensure_future(self._row(passes)), unread.pop_all()
            row.add_done_callback(lambda _: unread.close())
        return row

    async def _row(
        self, passes: Mapping[str, Sequence[Coroutine[Any, Any, list[np.ndarray]]]]
    ) -> dict[str, float]:
        found = iter(await together(each for parts in passes.values() for each in parts))
        row = {}
        for name, parts in passes.items():
            logprobs_D = [logprobs_T for _ in parts for logprobs_T in next(found)]
            row |= {
                f"{name}/{k}": v
                for k, v in held_out_row(self._sets[name], logprobs_D, self._tokenizer).items()
            }
        return row


def held_out_row(
    examples: Sequence[Example], logprobs_D: Sequence[np.ndarray], tokenizer: Tokenizer
) -> dict[str, float]:
    """nll: nats a trained token, over all tokens of the set. bits_per_byte: the same loss, a UTF-8 byte of
    the trained text, so that tokenizers can be compared. n: conversations."""
    kept = [example for example in examples if example.weights_T[1:].any()]
    loss, tokens = nll(kept, logprobs_D)
    trained = (example.tokens_T[1:][example.weights_T[1:] > 0] for example in kept)
    size = sum(tokenizer.utf8_length(tokens_T.tolist()) for tokens_T in trained)
    row: dict[str, float] = {"nll": loss / tokens} if tokens else {}
    row |= {"bits_per_byte": loss / math.log(2) / size} if size else {}
    return row | {"n": len(examples)}


def rows_of(data: DatasetConfig, split: str, n: int | None = None) -> Sequence[Sequence[Message]]:
    """The conversations of a split, or its first n: an iterable without a length is read into a list.

    Raises `ConfigError` for what isn't conversations.
    """
    rows, name = data.rows(split), f"{type(data).__name__}.rows({split!r})"
    if not isinstance(rows, Iterable) or isinstance(rows, Mapping):
        raise ConfigError(f"{name} gave {type(rows).__name__}, not conversations")
    if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
        rows = list(itertools.islice(rows, n))
    found: Sequence[Any] = rows if n is None else [rows[i] for i in range(min(n, len(rows)))]  # type: ignore[index]
    if len(found) and not (isinstance(found[0], Sequence) and not isinstance(found[0], str)):
        raise ConfigError(f"{name} holds {type(found[0]).__name__}, not lists of messages")
    return found


def fingerprint(rows: Sequence[Sequence[Message]]) -> dict[str, Any]:
    """What tells one dataset from another: how many rows it has, and a hash of the first thousand."""
    text = json.dumps([rows[i] for i in range(min(1000, len(rows)))], ensure_ascii=False)
    return {"rows": len(rows), "hash": hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}


def recipe() -> chz.Blueprint:
    """Supervised learning with nothing set: `data=` and `model=` are for the user to give."""
    return preset(SLConfig, name="core/sl")
